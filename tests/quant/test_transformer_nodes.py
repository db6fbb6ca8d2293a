"""Nodes of vision transformers against plain Python integers, and the file format against damage."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from quant import numerics
from quant.integer_network import (
    AveragePool,
    Conv,
    Input,
    IntegerNetwork,
    IntegerNetworkError,
    LayerNorm,
    Merge,
    PatchConv,
    Rectify,
    Select,
    SoftmaxAttention,
    Tokens,
)
from quant.integer_network.nodes import largest_accumulator
from quant.numerics import Operand
from tests.quant.test_integer_network import assert_same, clamped, node, random_tensor, requant, rewrite, rounded_shift
from tests.quant.test_softmax_numerics import python_softmax


def stream_requant(channels: int, seed: int = 0, **settings):
    none = torch.zeros(channels, dtype=torch.int64)
    return requant(channels, seed, zero_point=none, out_bits=16, signed=True, **settings)


def attention(heads: int = 2, d: int = 4, bits: int = 8, probability_bits: int = 8, **settings) -> SoftmaxAttention:
    none = torch.zeros(heads, dtype=torch.int64)
    quotients = requant(
        heads, bias=none, multiplier=none, shift=torch.full((heads,), 9), zero_point=none, operand=Operand.STAGE,
        multiplier2=random_tensor(7, 1 << 15, 1 << 16, heads), shift2=22 - probability_bits, out_bits=probability_bits,
    )  # fmt: skip
    values = dict(
        name="a", inputs=("x",), heads=heads, bits=bits, query_zero=random_tensor(1, 0, 1 << bits, heads * d),
        exponent_multiplier=random_tensor(2, 1 << 15, 1 << 16, heads), exponent_shift=torch.full((heads,), bits + 14),
        probability=quotients, requant=requant(heads * d, shift=torch.full((heads * d,), 24)),
    )  # fmt: skip
    return SoftmaxAttention(**(values | settings))


# -- nodes --


def test_patches_are_convolved():
    weight = random_tensor(0, -127, 128, 5, 3, 4, 4).to(torch.int8)
    made = PatchConv(name="p", inputs=("x",), weight=weight, requant=stream_requant(5))
    x = random_tensor(1, 0, 256, 2, 3, 8, 12).int()
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), stride=4).long()
    assert made.kernel == 4 and torch.equal(made.accumulate(x).long(), expected)
    assert torch.equal(made.run(x), made.requant(expected))


def test_tokens_stand_before_patches_and_saturate():
    x = torch.tensor([[[[5, 32767], [-32768, 0]]]], dtype=torch.int32)
    made = Tokens(name="t", inputs=("x",), tokens=torch.tensor([[7, -9]]), positions=torch.tensor([[1, 2, -3, 32767]]))
    assert made.run(x).tolist() == [[[[7, -9, 6, 32767, -32768, 32767]]]]
    narrow = replace(made, bits=8, positions=torch.tensor([[1, 2, -3, 4]]))
    assert narrow.run(x).tolist() == [[[[7, -9, 6, 127, -128, 4]]]]


def test_merge_and_select_move_codes():
    x = random_tensor(0, -(2**15), 2**15, 2, 3, 4, 6).int()
    assert torch.equal(Merge(name="m", inputs=("x",)).run(x), numerics.merge(x))
    tokens = x[:, :, :1]
    found = Select(name="s", inputs=("x",), tokens=(1, 0)).run(tokens)
    assert found.shape == (2, 6, 1, 1) and torch.equal(found[:, :3, 0, 0], tokens[:, :, 0, 1])
    assert torch.equal(found[:, 3:, 0, 0], tokens[:, :, 0, 0])


def test_layer_norm_of_every_pixel_of_a_stream():
    made = LayerNorm(name="n", inputs=("x",), epsilon=5, requant=requant(6, shift=torch.full((6,), 20)))
    x = random_tensor(0, -(2**15), 2**15, 2, 6, 3, 2).int()
    rows = numerics.normalise(x.permute(0, 2, 3, 1), 5).permute(0, 3, 1, 2)
    assert torch.equal(made.run(x), made.requant(rows))


@pytest.mark.parametrize("centred", [True, False])
def test_rectify_normalises_heads_of_queries_and_keys(centred):
    made = Rectify(name="r", inputs=("x",), heads=2, epsilon=9, requant=requant(24), centred=centred)
    x = random_tensor(0, -(2**11), 2**11, 2, 24, 3, 1).int()
    parts = [
        numerics.normalise(x[:, start : start + 4], 9, dim=1, centred=centred) for start in range(0, 16, 4)
    ]  # fmt: skip
    assert torch.equal(made.run(x), made.requant(torch.cat((*parts, x[:, 16:].long()), 1)))


CASES = {
    "all tokens": dict(),
    "4 bits": dict(bits=4, probability_bits=4),
    "2 bits": dict(bits=2, probability_bits=3, index_bits=3, mantissa_bits=4),
    "bias": dict(bias=random_tensor(9, -9000, 9000, 2, 8, 8)),
    "windows": dict(window=2, bias=random_tensor(9, -9000, 9000, 2, 4, 4)),
    "shifted": dict(window=2, window_shift=1),
}


@pytest.mark.parametrize("case", CASES)
def test_softmax_attention_is_what_plain_integers_make(case):
    made = attention(**CASES[case])
    height, width = (2, 4) if made.window is None else (4, 4)
    x = random_tensor(3, 0, 1 << made.bits, 2, 24, height, width).int()
    found = made.run(x)
    middle, size = 1 << (made.bits - 1), made.window or 0
    pixels = list(product(range(height), range(width)))
    for n, head in product(range(2), range(2)):
        q, k, v = x[n].reshape(3, 2, 4, height, width)[:, head].tolist()

        def place(pixel: tuple[int, int]) -> tuple[int, int]:
            """Where the pixel lies in the windows' map."""
            return (pixel[0] - made.window_shift) % height, (pixel[1] - made.window_shift) % width

        def token(pixel: tuple[int, int]) -> int:
            y, c = place(pixel)
            return y % size * size + c % size if size else pixels.index(pixel)

        def together(a: tuple[int, int], b: tuple[int, int]) -> bool:
            if not size:
                return True
            near = abs(a[0] - b[0]) < size and abs(a[1] - b[1]) < size
            return near and all(i // size == j // size for i, j in zip(place(a), place(b)))

        def narrow(code: int) -> int:
            return max(code - middle, 1 - middle)

        for query in pixels:
            keys = [p for p in pixels if together(query, p)]
            scores = []
            for y, c in keys:
                score = 0
                for i in range(4):
                    centred = q[i][query[0]][query[1]] - int(made.query_zero[head * 4 + i])
                    score += centred * narrow(k[i][y][c])
                if made.bias is not None:
                    score += int(made.bias[head, token(query), token((y, c))])
                scores.append(score)
            terms = python_softmax(
                scores, [True] * len(keys), int(made.exponent_multiplier[head]), int(made.exponent_shift[head]),
                made.index_bits,
            )  # fmt: skip
            r, e = (int(i) for i in numerics.reciprocal(torch.tensor(sum(terms)), made.mantissa_bits))
            p = made.probability
            codes = []
            for term in terms:
                stage = clamped(rounded_shift(term * r, int(p.shift[head]) + e - 15), -(2**15), 2**15 - 1)
                code = rounded_shift(stage * int(p.multiplier2[head]), p.shift2)
                codes.append(clamped(code, 0, 2**p.out_bits - 1))
            for i in range(4):
                acc = sum(code * narrow(v[i][y][c]) for code, (y, c) in zip(codes, keys))
                expected = made.requant(torch.full((1, 8, 1, 1), acc))[0, head * 4 + i, 0, 0]
                assert found[n, head * 4 + i, query[0], query[1]] == expected, (n, head, query, i)


def test_zero_points_of_keys_and_values_are_constants():
    """Keys moved by a code per channel change no output; no code of them may reach the ends."""
    made = attention(heads=1, d=8, requant=requant(8, shift=torch.full((8,), 24)))
    x = random_tensor(0, 40, 200, 2, 24, 3, 3).int()
    moved = x.clone()
    moved[:, 8:16] += random_tensor(1, -30, 30, 8, 1, 1).int()
    assert torch.equal(made.run(moved), made.run(x))


# -- what is refused --


@pytest.mark.parametrize(
    "change",
    [
        dict(heads=3),
        dict(bits=9),
        dict(index_bits=11),
        dict(mantissa_bits=11),
        dict(query_zero=torch.zeros(7, dtype=torch.int64)),
        dict(exponent_multiplier=torch.tensor([-1, 0])),
        dict(exponent_shift=torch.tensor([32, 0])),
        dict(probability=requant(2)),
        dict(window_shift=1),
        dict(window=2, window_shift=2),
        dict(window=2, bias=torch.zeros(2, 5, 5, dtype=torch.int64)),
        dict(bias=torch.full((2, 4, 4), 1 << 30)),
    ],
    ids=str,
)
def test_attentions_that_no_hardware_could_do_are_refused(change):
    with pytest.raises(IntegerNetworkError):
        replace(attention(), **change)


def test_proved_scores_are_reached():
    made = attention(heads=1, d=4, query_zero=torch.tensor([0, 255, 100, 200]), bias=torch.full((1, 1, 1), -77))
    codes = torch.tensor([255, 0, 255, 0] + [0] * 8).reshape(1, 12, 1, 1)
    assert made.largest_score == (255 + 255 + 155 + 200) * 127 + 77
    assert int(made.scores(codes)[0]) == -(255 - 255 + 155 - 200) * 127 - 77
    codes[:, 4:8] = torch.tensor([0, 255, 0, 255]).reshape(4, 1, 1)
    assert int(made.scores(codes)[0]) == -made.largest_score


def transformer() -> IntegerNetwork:
    """Every kind of node; it computes nothing sensible."""
    channels = 8
    nodes = (
        Input(name="input", size=8),
        PatchConv(
            name="patch", inputs=("input",), requant=stream_requant(channels),
            weight=random_tensor(0, -127, 128, channels, 3, 2, 2).to(torch.int8),
        ),
        Tokens(
            name="tokens", inputs=("patch",), tokens=random_tensor(1, -99, 99, channels, 2),
            positions=random_tensor(2, -99, 99, channels, 16),
        ),
        LayerNorm(name="norm", inputs=("tokens",), epsilon=9, requant=requant(channels)),
        Conv(
            name="qkv", inputs=("norm",), weight=random_tensor(3, -9, 9, 24, channels, 1, 1).to(torch.int8),
            requant=stream_requant(24), pad_value=random_tensor(4, 0, 9, channels),
        ),
        Rectify(name="rectify", inputs=("qkv",), heads=2, epsilon=3, requant=requant(24)),
        attention(name="a", inputs=("rectify",)),
        Conv(
            name="proj", inputs=("a", "tokens"),
            weight=random_tensor(5, -9, 9, channels, channels, 1, 1).to(torch.int8),
            requant=stream_requant(
                channels, operand=Operand.RESIDUAL, shift2=6, multiplier2=torch.full((channels,), 60)
            ),
            pad_value=random_tensor(4, 0, 9, channels),
        ),
        Select(name="select", inputs=("proj",), tokens=(0, 1)),
        Merge(name="merge", inputs=("patch",)),
        LayerNorm(name="merged", inputs=("merge",), epsilon=9, requant=requant(4 * channels)),
        AveragePool(name="pool", inputs=("merged",), bias=3, multiplier=40000, shift=18, zero_point=9),
    )  # fmt: skip
    return IntegerNetwork(nodes, {"formats": {}})


IMAGES = random_tensor(0, 0, 256, 3, 8, 8, 3).to(torch.uint8)


def test_a_saved_transformer_is_the_same(tmp_path):
    network, path = transformer(), tmp_path / "network.safetensors"
    network.save(path)
    loaded = IntegerNetwork.load(path)
    for a, b in zip(network.nodes, loaded.nodes, strict=True):
        assert_same(a, b)
    assert torch.equal(loaded.run(IMAGES), network.run(IMAGES))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_widths_follow_the_graph():
    widths = transformer().widths()
    assert widths["tokens"] == widths["merge"] == widths["select"] == (16, True)
    assert widths["input"] == widths["rectify"] == widths["pool"] == (8, False)


MALFORMED = {
    "attention reads a stream": lambda d, t: node(d, "a").update(inputs=["qkv"]),
    "attention of other bits": lambda d, t: node(d, "a").update(bits=7),
    "convolution reads a stream": lambda d, t: node(d, "qkv").update(inputs=["tokens"]),
    "patches of a stream": lambda d, t: node(d, "patch").update(inputs=["tokens"]),
    "rectify reads codes": lambda d, t: node(d, "rectify").update(inputs=["norm"]),
    "pool reads a stream": lambda d, t: node(d, "pool").update(inputs=["merge"]),
    "tokens of other bits": lambda d, t: node(d, "tokens").update(bits=12),
    "no tokens": lambda d, t: t.update({"tokens/tokens": torch.zeros(8, 0, dtype=torch.int64)}),
    "other channels": lambda d, t: t.update({"tokens/positions": torch.zeros(7, 16, dtype=torch.int64)}),
    "none selected": lambda d, t: node(d, "select").update(tokens=[]),
    "selected by name": lambda d, t: node(d, "select").update(tokens=["class"]),
    "heads are text": lambda d, t: node(d, "rectify").update(heads="2"),
    "centred is a number": lambda d, t: node(d, "rectify").update(centred=2),
    "missing table": lambda d, t: t.pop("a/query_zero").sum() and None,
    "biased probabilities": lambda d, t: t.update({"a/probability/bias": torch.ones(2, dtype=torch.int64)}),
    "wide weights": lambda d, t: node(d, "patch").update(weight_bits=4),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(tmp_path, name):
    path = tmp_path / "network.safetensors"
    transformer().save(path)
    rewrite(path, MALFORMED[name])
    with pytest.raises(IntegerNetworkError, match="quantize again"):
        IntegerNetwork.load(path)


def test_accumulators_are_proved_from_the_weights():
    weight = torch.full((1, 70_000, 1, 1), 127, dtype=torch.int8)
    with pytest.raises(IntegerNetworkError, match="accumulators reach 2266950000, which takes more than 32 bits"):
        Conv(
            name="c", inputs=("x",), weight=weight, requant=requant(1), pad_value=torch.zeros(70_000, dtype=torch.int64)
        )
    assert largest_accumulator(torch.tensor([[3, -4, 5], [1, 1, -9]], dtype=torch.int8)) == 9 * 255


def test_more_keys_than_sums_hold_are_refused():
    with pytest.raises(IntegerNetworkError, match="16641 keys"):
        attention(heads=1, d=1).run(torch.zeros(1, 3, 129, 129, dtype=torch.int32))
