"""Nodes against plain Python integers, and the file format against damage."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import floor

import pytest
import torch
from safetensors.torch import load_file, save_file

from quant import numerics
from quant.integer_network import (
    AveragePool,
    Conv,
    Input,
    IntegerNetwork,
    IntegerNetworkError,
    LayerNorm,
    LinearAttention,
    Requant,
)
from quant.numerics import Operand
from tests.quant.support import tiny_network


def rounded_shift(x: int, shift: int) -> int:
    return floor(Fraction(x, 1 << shift) + Fraction(1, 2)) if shift else x


def clamped(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def random_tensor(seed: int, low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def requant(channels: int, seed: int = 0, **settings) -> Requant:
    values = dict(
        bias=random_tensor(seed, -5000, 5000, channels),
        multiplier=random_tensor(seed + 1, 1 << 15, 1 << 16, channels),
        shift=random_tensor(seed + 2, 20, 26, channels),
        zero_point=random_tensor(seed + 3, 0, 256, channels),
        multiplier2=torch.zeros(channels, dtype=torch.int64),
    )
    return Requant(**(values | settings))


@pytest.fixture(scope="module")
def tiny():
    return tiny_network()


# -- nodes --


def test_input_keeps_the_high_bits():
    image = torch.tensor([0, 15, 16, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 5)
    assert Input(name="input", bits=8).run(image).flatten().tolist() == [0, 15, 16, 128, 255]
    assert Input(name="input", bits=4).run(image).flatten().tolist() == [0, 0, 1, 8, 15]


@pytest.mark.parametrize("operand", list(Operand))
def test_requant_of_every_operand(operand):
    table = random_tensor(9, -32768, 32768, 1 << 6)
    r = requant(
        3, operand=operand, multiplier2=torch.tensor([1, 40000, 65535]), shift2=14 if operand else 0,
        table=table, index_zero=-7, residual_zero=100,
    )  # fmt: skip
    acc, residual = random_tensor(5, -(2**22), 2**22, 2, 3, 4, 2), random_tensor(6, 0, 256, 2, 3, 4, 2)
    found = r(acc.int(), residual.int())
    assert found.dtype == torch.int32
    for n, c, y, x in product(range(2), range(3), range(4), range(2)):
        stage = rounded_shift((int(acc[n, c, y, x]) + int(r.bias[c])) * int(r.multiplier[c]), int(r.shift[c]))
        stage = clamped(stage, -(2**23), 2**23 - 1)
        m2, centred = int(r.multiplier2[c]), int(residual[n, c, y, x]) - 100
        expected = {
            Operand.NONE: stage,
            Operand.RESIDUAL: rounded_shift(centred * m2 + stage, 14),
            Operand.TABLE: rounded_shift(int(table[clamped(stage - 7, 0, 63)]) * m2, 14),
            Operand.STAGE: rounded_shift(clamped(stage, -(2**15), 2**15 - 1) * m2, 14),
        }[operand]
        assert found[n, c, y, x] == clamped(expected + int(r.zero_point[c]), 0, 255)


def test_requant_clamps_to_its_bits():
    one = torch.ones(1, dtype=torch.int64)
    acc = torch.tensor([-(2**24), 2**24]).reshape(2, 1, 1, 1)
    for bits, signed, expected in [(8, False, [0, 255]), (3, False, [0, 7]), (16, True, [-32768, 32767])]:
        r = Requant(bias=0 * one, multiplier=one, shift=0 * one, zero_point=0 * one, multiplier2=0 * one,
                    out_bits=bits, signed=signed)  # fmt: skip
        assert r(acc).flatten().tolist() == expected


@pytest.mark.parametrize("kernel, groups, stride", [(1, 1, 1), (1, 2, 1), (3, 4, 2), (5, 4, 1), (3, 1, 2)])
def test_conv_accumulates_like_a_convolution_of_padded_codes(kernel, groups, stride):
    weight = random_tensor(0, -127, 128, 8 if groups < 4 else 4, 4 // groups, kernel, kernel).to(torch.int8)
    node = Conv(
        name="c", inputs=("x",), weight=weight, requant=requant(len(weight)), stride=stride, groups=groups,
        pad_value=torch.tensor([3, 0, 255, 130]),
    )  # fmt: skip
    x = random_tensor(1, 0, 256, 2, 4, 7, 6).int()
    assert node.is_depthwise == (groups == 4) and node.kernel == kernel
    padded = numerics.pad_codes(x, kernel // 2, node.pad_value)
    expected = torch.nn.functional.conv2d(padded.double(), weight.double(), stride=stride, groups=groups).long()
    assert torch.equal(node.accumulate(x).long(), expected)
    assert torch.equal(node.run(x), node.requant(expected))


@pytest.mark.parametrize("state_bits, mantissa_bits", [(8, 8), (8, 0), (4, 3)])
def test_linear_attention(state_bits, mantissa_bits):
    d, heads, height, width = 4, 2, 3, 2
    channels = 2 * heads * d
    none = torch.zeros(channels, dtype=torch.int64)
    node = LinearAttention(
        name="a", inputs=("x", "y"), head_dim=d, input_zero=(128, 90),
        state_multiplier=random_tensor(0, 1 << 15, 1 << 16, 2 * heads), state_shift=torch.tensor([24, 25, 23, 24]),
        sum_multiplier=random_tensor(1, 1 << 15, 1 << 16, 2 * heads), sum_shift=torch.tensor([18, 17, 16, 18]),
        requant=requant(
            channels, bias=none, multiplier=none,
            shift=random_tensor(2, 1, 6, channels), multiplier2=random_tensor(3, 1 << 15, 1 << 16, channels),
            shift2=22, operand=Operand.STAGE,
        ),
        state_bits=state_bits, mantissa_bits=mantissa_bits,
    )  # fmt: skip
    inputs = [random_tensor(4 + i, 0, 256, 2, 3 * heads * d, height, width).int() for i in range(2)]
    inputs[0][1, :d] = 0  # all queries of one head below zero: its divisors are 0
    found = node.run(*inputs)
    top = 2 ** (state_bits - 1) - 1
    for n in range(2):
        for head in range(2 * heads):
            x = inputs[head // heads][n].long().reshape(heads, 3, d, -1)[head % heads] - node.input_zero[head // heads]
            q, k, v = x[0].clamp(min=0).tolist(), x[1].clamp(min=0).tolist(), x[2].tolist()

            def state(raw: int, multiplier: torch.Tensor, shift: torch.Tensor, head: int = head) -> int:
                return clamped(rounded_shift(raw * int(multiplier[head]), int(shift[head])), -top, top)

            tokens = range(height * width)
            sums = [state(sum(k[i]), node.sum_multiplier, node.sum_shift) for i in range(d)]
            for channel in range(d):
                column = [
                    state(sum(k[i][t] * v[channel][t] for t in tokens), node.state_multiplier, node.state_shift)
                    for i in range(d)
                ]
                for t in tokens:
                    numerator = sum(column[i] * q[i][t] for i in range(d))
                    divisor = sum(sums[i] * q[i][t] for i in range(d))
                    r, e = numerics.reciprocal(torch.tensor(divisor), mantissa_bits)
                    out = head * d + channel
                    stage = rounded_shift(numerator * int(r), int(node.requant.shift[out]) + int(e))
                    value = rounded_shift(clamped(stage, -32768, 32767) * int(node.requant.multiplier2[out]), 22)
                    expected = clamped(value + int(node.requant.zero_point[out]), 0, 255)
                    assert found[n, out, t // width, t % width] == expected
                    if divisor == 0:
                        assert expected == node.requant.zero_point[out]
    assert (found[1, :d] == node.requant.zero_point[:d].reshape(-1, 1, 1)).all()


def test_average_pool():
    node = AveragePool(name="p", inputs=("x",), bias=-9 * 30, multiplier=58254, shift=19, zero_point=12)
    x = random_tensor(0, 0, 256, 2, 5, 3, 3).int()
    x[0, 0], x[0, 1] = 0, 255
    expected = [
        clamped(rounded_shift((int(channel.sum()) - 270) * 58254, 19) + 12, 0, 255) for channel in x.flatten(0, 1)
    ]
    assert node.run(x).flatten().tolist() == expected


def test_layer_norm_requantizes_normalised_elements():
    r = requant(6, multiplier=torch.tensor([40000, -40000, 1, 0, 65535, 33333]), shift=torch.full((6,), 20))
    node = LayerNorm(name="n", inputs=("x",), epsilon=77, requant=r)
    x = random_tensor(0, 0, 256, 3, 6, 1, 1).int()
    expected = r(numerics.normalise(x[:, :, 0, 0], 77)[:, :, None, None])
    assert torch.equal(node.run(x), expected) and expected.shape == (3, 6, 1, 1)


# -- networks --


def test_images_of_another_shape_or_type_are_refused(tiny):
    network, images = tiny
    with pytest.raises(IntegerNetworkError, match=r"uint8 \(N, 32, 32, 3\)"):
        network.run(images[:, :31])
    with pytest.raises(IntegerNetworkError, match="not torch.float32"):
        network.run(images.float())


def test_a_trace_has_every_tensor_and_the_scores(tiny):
    network, images = tiny
    trace = network.run(images, trace=True)
    assert list(trace) == [node.name for node in network.nodes]
    scores = network.run(images)
    assert scores.shape == (len(images), 10) and scores.dtype == torch.int32
    assert torch.equal(trace[network.nodes[-1].name][:, :, 0, 0], scores)


def test_images_do_not_influence_each_other(tiny):
    network, images = tiny
    alone = torch.cat([network.run(image[None]) for image in images])
    assert torch.equal(network.run(images), alone)


def test_nodes_by_name(tiny):
    network, _ = tiny
    assert network["stem.conv"].name == "stem.conv" and network.input is network["input"]
    with pytest.raises(KeyError, match="nothing"):
        network["nothing"]


def test_graphs_that_cannot_run_are_refused(tiny):
    network, _ = tiny
    first, stem, *rest = network.nodes
    with pytest.raises(IntegerNetworkError, match="first node"):
        IntegerNetwork(())
    with pytest.raises(IntegerNetworkError, match="no earlier node"):
        IntegerNetwork((first, replace(stem, inputs=("elsewhere",))))
    with pytest.raises(IntegerNetworkError, match="unique"):
        IntegerNetwork((first, stem, stem))
    with pytest.raises(IntegerNetworkError, match="Requant is not a node"):
        IntegerNetwork((first, stem.requant))


@pytest.mark.parametrize(
    "change",
    [
        dict(multiplier=torch.tensor([1 << 17, 0])),
        dict(shift=torch.tensor([-1, 0])),
        dict(shift=torch.tensor([64, 0])),
        dict(zero_point=torch.tensor([256, 0])),
        dict(multiplier2=torch.tensor([1 << 16, 0])),
        dict(bias=torch.tensor([1 << 31, 0])),
        dict(bias=torch.tensor([0.0, 0.0])),
        dict(zero_point=torch.tensor([1])),
        dict(shift2=32),
        dict(index_zero=4096),
        dict(residual_zero=-1),
        dict(out_bits=17),
        dict(operand=Operand.TABLE),
        dict(operand=Operand.TABLE, table=torch.zeros(7, dtype=torch.int64)),
        dict(operand=Operand.TABLE, table=torch.full((8,), 1 << 15)),
    ],
    ids=str,
)
def test_requants_that_hardware_cannot_do_are_refused(change):
    with pytest.raises(IntegerNetworkError):
        requant(2, **change)


def test_convolutions_that_do_not_fit_are_refused(tiny):
    network, _ = tiny
    stem = network["stem.conv"]
    for change in (
        dict(stride=3),
        dict(groups=3),
        dict(weight_bits=4),
        dict(pad_value=stem.pad_value[:2]),
        dict(requant=network["head.conv"].requant),
        dict(inputs=("input", "input")),
        dict(weight=stem.weight.float()),
    ):
        with pytest.raises(IntegerNetworkError):
            replace(stem, **change)


# -- files --


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    for name, x in vars(a).items():
        y = getattr(b, name)
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype and torch.equal(x, y)
        elif isinstance(x, Requant):
            assert_same(x, y)
        else:
            assert x == y and type(x) is type(y)


@pytest.mark.parametrize("bits", [8, 3])
def test_a_saved_network_is_the_same_network(tmp_path, bits):
    network, images = tiny_network(act_bits=bits, weight_bits=bits)
    path = tmp_path / "network.safetensors"
    network.save(path)
    loaded = IntegerNetwork.load(path)
    assert loaded.info == network.info
    for a, b in zip(network.nodes, loaded.nodes, strict=True):
        assert_same(a, b)
    assert torch.equal(loaded.run(images), network.run(images))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "network.safetensors"]


def test_truncated_files_are_refused(tmp_path, tiny):
    path = tmp_path / "network.safetensors"
    tiny[0].save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for length in (0, 4, 8, 100, header - 1, header, header + 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(IntegerNetworkError, match="network.safetensors"):
            IntegerNetwork.load(path)
    with pytest.raises(IntegerNetworkError):
        IntegerNetwork.load(tmp_path / "absent.safetensors")
    with pytest.raises(IntegerNetworkError):
        IntegerNetwork.load(tmp_path)


def rewrite(path, change) -> None:
    """Apply `change(document, tensors)` to a saved network; it may return another document."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["network"])
    tensors = load_file(path)
    document = change(document, tensors) or document
    save_file(tensors, path, metadata={"network": json.dumps(document)})


def node(document: dict, name: str) -> dict:
    return next(record for record in document["nodes"] if record["name"] == name)


MALFORMED = {
    "another format": lambda d, t: d.update(format="other"),
    "another version": lambda d, t: d.update(version=2),
    "no nodes": lambda d, t: d.pop("nodes") and None,
    "nodes are a number": lambda d, t: d.update(nodes=3),
    "a node is text": lambda d, t: d["nodes"].append("head"),
    "unknown kind": lambda d, t: node(d, "stem.conv").update(kind="Softmax"),
    "a requant as node": lambda d, t: d["nodes"].append(node(d, "stem.conv")["requant"] | {"name": "r"}),
    "missing field": lambda d, t: node(d, "stem.conv").pop("weight") and None,
    "unknown field": lambda d, t: node(d, "stem.conv").update(dilation=1),
    "missing tensor": lambda d, t: t.pop("stem.conv/weight").sum() and None,
    "float tensor": lambda d, t: t.update({"stem.conv/weight": t["stem.conv/weight"].float()}),
    "flat weights": lambda d, t: t.update({"stem.conv/weight": t["stem.conv/weight"].flatten()}),
    "wrong number of channels": lambda d, t: t.update({"stem.conv/requant/bias": torch.zeros(3, dtype=torch.int64)}),
    "unknown operand": lambda d, t: node(d, "stem.conv")["requant"].update(operand=9),
    "text for a number": lambda d, t: node(d, "head.pool").update(shift="a"),
    "reads what does not exist": lambda d, t: node(d, "head.pool").update(inputs=["tail"]),
    "reversed order": lambda d, t: d["nodes"].reverse(),
    "no info": lambda d, t: d.pop("info") and None,
    "a list": lambda d, t: [1, 2],
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(tmp_path, tiny, name):
    path = tmp_path / "network.safetensors"
    tiny[0].save(path)
    rewrite(path, MALFORMED[name])
    with pytest.raises(IntegerNetworkError, match="quantize again"):
        IntegerNetwork.load(path)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(IntegerNetworkError, match="quantize again"):
        IntegerNetwork.load(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"network": "{"})
    with pytest.raises(IntegerNetworkError):
        IntegerNetwork.load(path)


def test_the_error_names_the_node(tmp_path, tiny):
    path = tmp_path / "network.safetensors"
    tiny[0].save(path)
    rewrite(path, lambda d, t: t.update({"head.fc1/requant/shift": t["head.fc1/requant/shift"] + 64}))
    with pytest.raises(IntegerNetworkError, match="head.fc1 is malformed.*shift has values"):
        IntegerNetwork.load(path)
