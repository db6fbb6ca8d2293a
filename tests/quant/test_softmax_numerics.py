"""Softmax, powers of two, LayerNorm of streams, patches, and windows against plain Python integers and floats."""

import math
import random
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from quant import numerics
from tests.quant.test_numerics import python_normalise, rounded_shift, saturated, tensor

getcontext().prec = 60


def python_power(index: int, bits: int) -> int:
    index = min(index, (1 << (bits + 5)) - 1)
    return rounded_shift(numerics.exp_table(bits)[index % (1 << bits)], index >> bits)


def python_softmax(scores: list[int], seen: list[bool], multiplier: int, shift: int, bits: int) -> list[int]:
    largest = max(s for s, see in zip(scores, seen) if see)
    indices = [saturated(rounded_shift((largest - s) * multiplier, shift), 24) for s in scores]
    return [python_power(i, bits) if see else 0 for i, see in zip(indices, seen)]


# -- powers of two --


@pytest.mark.parametrize("bits", range(11))
@pytest.mark.parametrize("fraction_bits", [8, 15])
def test_every_entry_is_the_nearest_power(bits, fraction_bits):
    table = numerics.exp_table(bits, fraction_bits)
    assert len(table) == 1 << bits and table[0] == 1 << fraction_bits
    for i, entry in enumerate(table):
        exact = Decimal(2) ** (Decimal(fraction_bits) - Decimal(i) / (1 << bits))
        assert abs(entry - exact) <= Decimal("0.5000001")


@pytest.mark.parametrize("bits", [0, 4, 6, 8])
def test_power_over_the_whole_range(bits):
    index = torch.arange((1 << (bits + 5)) + 100)
    found = numerics.power(index, bits)
    assert found.tolist() == [python_power(i, bits) for i in index.tolist()]
    exact = torch.exp2(15 - index.double() / (1 << bits))
    assert float((found - exact).abs().max()) <= 1.0 and bool((found.diff() <= 0).all())
    assert int(found[-1]) == 0 and int(numerics.power(tensor([2**23]), bits)) == 0


# -- softmax --


@pytest.mark.parametrize("bits, mantissa", [(6, 8), (4, 5), (8, 10)])
def test_softmax_is_what_plain_integers_make(bits, mantissa):
    rng = random.Random(bits)
    rows = [[rng.randrange(-(2**22), 2**22) for _ in range(9)] for _ in range(4)]
    rows += [[5] * 9, [2**29, -(2**29)] + [0] * 7, [-(2**29)] * 8 + [2**29]]
    seen = [[rng.random() < 0.6 or k == n % 9 for k in range(9)] for n in range(len(rows))]
    multipliers, shifts = [40000, 65535, 32768, 1], [20, 24, 31, 0]
    for multiplier, shift in zip(multipliers, shifts):
        terms, (r, e) = numerics.softmax(
            torch.tensor(rows, dtype=torch.int32), tensor([multiplier]), tensor([shift]),
            index_bits=bits, mantissa_bits=mantissa, masked=~torch.tensor(seen),
        )  # fmt: skip
        expected = [python_softmax(row, see, multiplier, shift, bits) for row, see in zip(rows, seen)]
        assert terms.tolist() == expected
        r_all, e_all = numerics.reciprocal(tensor([[sum(row)] for row in expected]), mantissa)
        assert torch.equal(r, r_all) and torch.equal(e, e_all - 15) and int(e.min()) >= 0


def test_what_is_the_same_for_all_keys_cancels():
    scores = torch.randint(-(2**20), 2**20, (50, 17), generator=torch.Generator().manual_seed(0))
    offsets = torch.randint(-(2**25), 2**25, (50, 1), generator=torch.Generator().manual_seed(1))
    found, moved = (numerics.softmax(s, tensor([50000]), tensor([22])) for s in (scores, scores + offsets))
    assert torch.equal(found[0], moved[0]) and torch.equal(found[1][0], moved[1][0])


def test_softmax_is_close_to_float():
    logits = torch.randn(500, 197, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    unit = 1e-4
    multiplier = round(math.log2(math.e) * unit * 2**numerics.EXP_INDEX_BITS * 2**22)
    terms, (r, e) = numerics.softmax(torch.round(logits / unit).long(), tensor([multiplier]), tensor([22]))
    found = torch.ldexp((terms * r).double(), -30 - e)
    exact = logits.softmax(-1)
    # Half a step of the exponent, and half a cell of the reciprocal's mantissa.
    worst = 2 ** (0.5 / 2**numerics.EXP_INDEX_BITS) * (1 + 2**-9) * (1 + 2**-12) - 1
    assert float(((found - exact).abs() - 2.0**-15).max() / exact.max()) < worst
    assert float((found - exact).norm() / exact.norm()) < 0.005


# -- LayerNorm of streams --


@pytest.mark.parametrize("n", [1, 2, 48, 3072, 4096])
def test_normalise_takes_16_signed_bits(n):
    rng = random.Random(n)
    rows = [[rng.randrange(-(2**15), 2**15) for _ in range(n)], [-(2**15)] * n, [2**15 - 1] * n]
    rows += [[-(2**15)] * (n // 2) + [2**15 - 1] * (n - n // 2), [-(2**15)] + [2**15 - 1] * (n - 1)]
    for epsilon in (1, 2**40 - 1):
        found = numerics.normalise(tensor(rows), epsilon)
        assert found.tolist() == [python_normalise(row, epsilon) for row in rows]
        assert int(found.abs().max()) < 2**19


@pytest.mark.parametrize("bits", [5, 8, 9])
def test_root_mean_squares_and_other_dimensions(bits):
    x = torch.randint(-(2**15), 2**15, (2, 3, 32, 5), generator=torch.Generator().manual_seed(0))
    found = numerics.normalise(x, 7, dim=2, centred=False, index_bits=bits).double() / 2**12
    exact = x / x.double().square().mean(2, keepdim=True).sqrt()
    assert float((found - exact).abs().max()) < (2.0 ** -(bits + 1) + 2.0**-12) * float(exact.abs().max()) + 2.0**-13
    centred = numerics.normalise(x, 7, dim=2, index_bits=bits)
    assert torch.equal(centred.transpose(2, 3), numerics.normalise(x.transpose(2, 3), 7, index_bits=bits))


@pytest.mark.parametrize("bits", [2, 5, 10])
def test_root_tables_of_other_widths(bits):
    table, half = numerics.rsqrt_table(bits), 1 << (bits - 1)
    assert len(table) == 1 << bits
    for index, entry in enumerate(table):
        centre = (1 + Fraction(2 * (index % half) + 1, 2 * half)) * 2 ** (index // half)
        assert abs(entry - 2**15 / math.sqrt(centre)) <= 0.75


# -- rearrangements --


def test_patches_lie_as_weights_do():
    x = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    found = torch.einsum("oc,nchw->nohw", weight.flatten(1), numerics.patches(x, 4).double())
    assert torch.allclose(found, F.conv2d(x.double(), weight, stride=4))


def test_merge_takes_columns_then_rows():
    x = torch.randint(0, 99, (2, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    parts = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    assert torch.equal(numerics.merge(x), torch.cat(parts, 1))


@pytest.mark.parametrize("window, shift", [(4, 0), (4, 2), (2, 1), (8, 3)])
def test_windows(window, shift):
    x = torch.arange(2 * 3 * 8 * 16).reshape(2, 3, 8, 16)
    windows = numerics.split_windows(x, window, shift)
    assert windows.shape == (2, 128 // window**2, 3, window**2)
    for index, token in [(0, 0), (1, 1), (len(windows[0]) - 1, window**2 - 1)]:
        row, column = index // (16 // window) * window, index % (16 // window) * window
        row, column = (row + token // window + shift) % 8, (column + token % window + shift) % 16
        assert torch.equal(windows[:, index, :, token], x[:, :, row, column])
    assert torch.equal(numerics.join_windows(windows, window, shift, 8, 16), x)


def test_tokens_see_those_that_were_near_them_before_the_shift():
    window, shift, height, width = 4, 1, 8, 12
    mask = numerics.window_mask(height, width, window, shift)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = numerics.split_windows(torch.stack((rows, columns))[None], window, shift)[0]  # (windows, 2, tokens)
    far = (places[:, :, :, None] - places[:, :, None, :]).abs().amax(1) >= window
    assert torch.equal(mask, far) and bool(mask.any()) and not bool(mask[0].any())
    assert not bool(numerics.window_mask(height, width, window, 0).any())
