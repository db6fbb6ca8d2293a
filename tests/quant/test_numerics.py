"""Every function of quant.numerics against plain Python integers of unlimited size."""

import math
import random
from fractions import Fraction

import pytest
import torch

from quant import numerics
from quant.numerics import Operand


def rounded_shift(x: int, shift: int) -> int:
    """Half up, by exact division: floor(x / 2**shift + 1/2)."""
    return math.floor(Fraction(x, 1 << shift) + Fraction(1, 2)) if shift else x


def saturated(x: int, bits: int) -> int:
    return min(max(x, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


# -- shifts, saturation, ranges --


@pytest.mark.parametrize("shift", [0, 1, 2, 15, 31, 40, 62, 63])
def test_round_shift_rounds_half_up_at_every_sign_and_size(shift):
    rng = random.Random(shift)
    values = [0, 1, -1, 2, -2, 3, -3, 2**61, -(2**61)] + [rng.randrange(-(2**45), 2**45) for _ in range(50)]
    if shift:
        half = min(1 << (shift - 1), 2**61)
        values += [half, -half, half - 1, -half - 1, 3 * half, -3 * half]
    values = [v for v in values if abs(v) <= 2**61]
    expected = [rounded_shift(v, shift) for v in values]
    assert numerics.round_shift(tensor(values), shift).tolist() == expected
    assert numerics.round_shift(tensor(values), tensor(shift)).tolist() == expected


def test_round_shift_takes_a_shift_per_channel_and_leaves_its_input_alone():
    x = tensor([[7, -7, 100], [6, -6, 101]])
    before = x.clone()
    assert numerics.round_shift(x, tensor([0, 1, 3])).tolist() == [[7, -3, 13], [6, -3, 13]]
    assert torch.equal(x, before)
    assert torch.equal(numerics.round_shift(x, 0), before)


def test_saturate_clamps_to_two_s_complement():
    assert numerics.saturate(tensor([-(2**30), -(2**23), -1, 2**23 - 1, 2**23]), 24).tolist() == [
        -(2**23), -(2**23), -1, 2**23 - 1, 2**23 - 1,
    ]  # fmt: skip


@pytest.mark.parametrize("bits", range(2, 9))
def test_ranges(bits):
    assert numerics.code_range(bits) == (0, 2**bits - 1)
    assert numerics.code_range(bits, signed=True) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    low, high = numerics.weight_range(bits)
    assert low == -high and high == 2 ** (bits - 1) - 1


# -- the two stages --


def test_first_stage_with_extremes_of_every_operand():
    rng = random.Random(1)
    accs = [0, 1, -1, 2**31 - 1, -(2**31), 2**25 - 1, -(2**25)] + [rng.randrange(-(2**25), 2**25) for _ in range(20)]
    for bias in (0, 1, -1, 2**31 - 1, -(2**31), 12345):
        for multiplier in (0, 1, -1, 2**15, 2**16 - 1, -(2**16) + 1):
            for shift in (0, 1, 16, 31, 47, 63):
                expected = [saturated(rounded_shift((a + bias) * multiplier, shift), 24) for a in accs]
                found = numerics.first_stage(tensor(accs), tensor(bias), tensor(multiplier), tensor(shift))
                assert found.tolist() == expected, (bias, multiplier, shift)


def test_first_stage_takes_values_per_channel():
    acc = torch.tensor([[10, 20], [-30, 40]], dtype=torch.int32)
    found = numerics.first_stage(acc, tensor([1, -1]), tensor([3, -5]), tensor([1, 2]))
    assert found.tolist() == [
        [rounded_shift(33, 1), rounded_shift(-95, 2)],
        [rounded_shift(-87, 1), rounded_shift(-195, 2)],
    ]


STAGES = [0, 1, -1, 2**23 - 1, -(2**23), 2**15 - 1, 2**15, -(2**15), -(2**15) - 1, 4096, -4096]


@pytest.mark.parametrize("shift2", [0, 1, 12, 22, 31])
def test_second_stage_none(shift2):
    found = numerics.second_stage(tensor(STAGES), Operand.NONE, tensor(0), shift2)
    assert found.tolist() == [rounded_shift(s, shift2) for s in STAGES]


@pytest.mark.parametrize("shift2", [0, 12, 31])
@pytest.mark.parametrize("multiplier2", [0, 1, 2**16 - 1])
def test_second_stage_residual(shift2, multiplier2):
    residual = [0, 255, 128, 1, 7, 0, 255, 3, 4, 5, 6]
    found = numerics.second_stage(
        tensor(STAGES), Operand.RESIDUAL, tensor(multiplier2), shift2,
        residual=torch.tensor(residual, dtype=torch.int32), residual_zero=131,
    )  # fmt: skip
    expected = [rounded_shift((r - 131) * multiplier2 + s, shift2) for r, s in zip(residual, STAGES)]
    assert found.tolist() == expected


@pytest.mark.parametrize("index_zero", [-4096, 0, 5, 4095])
def test_second_stage_table_clamps_the_index(index_zero):
    table = [-32768, -5, 0, 7, 9, 32767, 1, 2]
    found = numerics.second_stage(
        tensor(STAGES), Operand.TABLE, tensor(65535), 16, table=tensor(table), index_zero=index_zero
    )
    expected = [rounded_shift(table[min(max(s + index_zero, 0), 7)] * 65535, 16) for s in STAGES]
    assert found.tolist() == expected


def test_second_stage_of_the_stage_saturates_it_to_16_bits():
    found = numerics.second_stage(tensor(STAGES), Operand.STAGE, tensor(40000), 20)
    assert found.tolist() == [rounded_shift(saturated(s, 16) * 40000, 20) for s in STAGES]


# -- reciprocals and square roots --


def test_floor_log2():
    values = [1, 2, 3, 4, 7, 8, 2**31 - 1, 2**31, 2**61, 2**62 - 1]
    assert numerics.floor_log2(tensor(values)).tolist() == [v.bit_length() - 1 for v in values]
    assert numerics.floor_log2(tensor([0])).tolist() == [0]


@pytest.mark.parametrize("bits", [1, 4, 8, 10])
def test_reciprocal_table_is_the_rounded_reciprocal_of_the_cell_centres(bits):
    table = numerics.reciprocal_table(bits)
    cells = 2**bits
    assert len(table) == cells
    for i, entry in enumerate(table):
        centre = 1 + Fraction(2 * i + 1, 2 * cells)
        assert entry == math.floor(2**15 / centre + Fraction(1, 2))
    assert all(2**14 <= entry <= 2**15 for entry in table)


@pytest.mark.parametrize("bits", [1, 4, 8, 10])
def test_reciprocal_error_is_half_a_cell(bits):
    rng = random.Random(bits)
    divisors = [1, 2, 3, 5, 255, 256, 2**31 - 1] + [rng.randrange(1, 2**31) for _ in range(300)]
    r, e = numerics.reciprocal(tensor(divisors), bits)
    for divisor, mantissa, exponent in zip(divisors, r.tolist(), e.tolist()):
        assert exponent == divisor.bit_length() - 1
        found = Fraction(mantissa, 2 ** (15 + exponent)) * divisor
        assert abs(found - 1) <= Fraction(1, 2 ** (bits + 1)) + Fraction(1, 2**14)


def test_reciprocal_without_mantissa_rounds_up_from_one_and_a_half():
    divisors = list(range(1, 200)) + [0b01100011, 2**30, 2**30 + 2**29, 2**30 + 2**29 - 1]
    r, e = numerics.reciprocal(tensor(divisors), 0)
    assert set(r.tolist()) == {2**15}
    for divisor, exponent in zip(divisors, e.tolist()):
        floor = divisor.bit_length() - 1
        assert exponent == floor + (2 * divisor >= 3 * 2**floor)
    # The example of Trio-ViT: 0110 0011b has its leading one at 6, bit 5 is set, so its logarithm is 7.
    assert numerics.reciprocal(tensor([0b01100011]), 0)[1].item() == 7


@pytest.mark.parametrize("bits", [0, 8])
def test_reciprocal_of_zero_is_zero(bits):
    r, e = numerics.reciprocal(tensor([0, 1]), bits)
    assert (r[0].item(), e[0].item()) == (0, 0) and r[1].item() > 2**14


def test_rsqrt_table_is_rounded_at_the_cell_centres():
    table = numerics.rsqrt_table()
    assert len(table) == 256 and all(2**14 <= entry <= 2**15 for entry in table)
    for index, entry in enumerate(table):
        centre = (1 + Fraction(2 * (index % 128) + 1, 256)) * 2 ** (index // 128)
        # |entry - 2**15 / sqrt(centre)| <= 1/2 and a little for the one extra bit it is computed with.
        low, high = Fraction(2 * entry - 1, 2) - Fraction(1, 4), Fraction(2 * entry + 1, 2) + Fraction(1, 4)
        assert low**2 * centre <= 2**30 <= high**2 * centre


def python_normalise(x: list[int], epsilon: int) -> list[int]:
    n, total = len(x), sum(x)
    variance = n * sum(v * v for v in x) - total * total + epsilon
    exponent = variance.bit_length() - 1
    mantissa = ((variance << 7) >> exponent) & 127
    r = numerics.rsqrt_table()[(exponent % 2) * 128 + mantissa]
    return [rounded_shift((n * v - total) * r, 3 + exponent // 2) for v in x]


@pytest.mark.parametrize("n", [1, 2, 3, 48, 1600, 2560])
def test_normalise(n):
    rng = random.Random(n)
    rows = [[rng.randrange(256) for _ in range(n)], [0] * n, [255] * n, [0] * (n - 1) + [255]]
    for epsilon in (1, 12345, 2**40 - 1):
        found = numerics.normalise(tensor(rows), epsilon)
        assert found.tolist() == [python_normalise(row, epsilon) for row in rows]


def test_normalise_is_close_to_layer_norm():
    x = torch.randint(0, 256, (4, 1280), generator=torch.Generator().manual_seed(0))
    found = numerics.normalise(x, 1).double() / 2**12
    expected = torch.nn.functional.layer_norm(x.double(), (1280,))
    # The table has 7 mantissa bits: half a cell of the variance is 0.4 %, half of that for its root.
    assert (found - expected).abs().max() < 0.003 * expected.abs().max()


# -- products --


def random_codes(seed: int, *shape: int, low: int = 0, high: int = 256) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def python_conv(x, weight, stride: int, groups: int, pad_value) -> list:
    """One output at a time, from the definition."""
    _, c, height, width = x.shape
    o, per_group, kernel, _ = weight.shape
    reach = kernel // 2
    out = []
    for image in x.tolist():
        for filter_index, taps in enumerate(weight.tolist()):
            first = filter_index // (o // groups) * per_group
            for y in range(0, height, stride):
                for column in range(0, width, stride):
                    total = 0
                    for channel in range(per_group):
                        for ky in range(kernel):
                            for kx in range(kernel):
                                yy, xx = y + ky - reach, column + kx - reach
                                inside = 0 <= yy < height and 0 <= xx < width
                                code = image[first + channel][yy][xx] if inside else int(pad_value[first + channel])
                                total += code * taps[channel][ky][kx]
                    out.append(total)
    return out


@pytest.mark.parametrize(
    "kernel, stride, size", [(3, 1, (5, 4)), (3, 2, (5, 4)), (3, 2, (6, 7)), (5, 1, (3, 6)), (5, 1, (1, 1))]
)
def test_depthwise(kernel, stride, size):
    x, weight = random_codes(0, 2, 3, *size), random_codes(1, 3, kernel, kernel, low=-127, high=128)
    pad_value = tensor([0, 131, 255])
    found = numerics.depthwise(x, weight.to(torch.int8), stride, pad_value)
    assert found.dtype == torch.int32
    assert found.flatten().tolist() == python_conv(x, weight[:, None], stride, 3, pad_value)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_pointwise(groups):
    x, weight = random_codes(0, 2, 6, 3, 2), random_codes(1, 12, 6 // groups, 1, 1, low=-127, high=128)
    found = numerics.pointwise(x, weight[:, :, 0, 0].to(torch.int8), groups)
    assert found.shape == (2, 12, 3, 2) and found.is_contiguous()
    assert found.flatten().tolist() == python_conv(x, weight, 1, groups, [0] * 6)


@pytest.mark.parametrize("stride, size", [(1, (4, 5)), (2, (4, 4)), (2, (5, 7))])
def test_dense(stride, size):
    x, weight = random_codes(0, 2, 3, *size), random_codes(1, 4, 3, 3, 3, low=-127, high=128)
    pad_value = tensor([125, 123, 114])
    found = numerics.dense(x, weight.to(torch.int8), stride, pad_value)
    assert found.flatten().tolist() == python_conv(x, weight, stride, 1, pad_value)


def test_products_of_extremes_are_exact():
    x = torch.full((1, 2048, 1, 1), 255, dtype=torch.int32)
    assert numerics.pointwise(x, torch.full((1, 2048), -127, dtype=torch.int8)).item() == -255 * 127 * 2048
    a = torch.full((1, 1, 46000), 255, dtype=torch.int32)
    assert numerics.matmul(a, a.transpose(1, 2) // 255 * 127).item() == 46000 * 255 * 127
