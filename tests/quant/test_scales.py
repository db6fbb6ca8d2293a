"""Real numbers to integers: every conversion against the real number it stands for."""

import pytest
import torch

from quant.scales import (
    AffineFormat,
    fitted_unit,
    fixed_point,
    hardswish_table,
    per_filter,
    quantize_weight,
    shared_fixed_point,
    signed_fixed_point,
)


def test_fixed_point_is_normalised_and_close():
    real = torch.cat(
        (torch.logspace(-4.5, 4, 500, dtype=torch.float64), torch.tensor([1.0, 0.5, 2.0**-15, 0.99999999]))
    )
    multiplier, shift = fixed_point(real)
    assert ((multiplier >= 2**15) & (multiplier < 2**16) & (shift >= 1) & (shift <= 31)).all()
    assert (torch.ldexp(multiplier.double(), -shift) / real - 1).abs().max() <= 2.0**-16


def test_fixed_point_of_tiny_and_large_reals():
    multiplier, shift = fixed_point(torch.tensor([0.0, 1e-300, 2.0**-18, 2.0**-31, 32766.0]))
    assert multiplier.tolist() == [0, 0, 2**13, 1, 65532]
    assert shift.tolist() == [31, 31, 31, 31, 1]
    for bad in (32768.0, float("inf"), float("nan"), -1.0):
        with pytest.raises(ValueError, match="rescaling factor"):
            fixed_point(torch.tensor([1.0, bad]))


def test_signed_fixed_point():
    multiplier, shift = signed_fixed_point(torch.tensor([-0.75, 0.75, 0.0]))
    assert multiplier.tolist() == [-49152, 49152, 0] and shift.tolist() == [16, 16, 31]


def test_shared_fixed_point():
    real = torch.tensor([0.001, 0.004, 0.0000001], dtype=torch.float64)
    multiplier, shift = shared_fixed_point(real)
    assert 2**15 <= int(multiplier.max()) < 2**16 and int(multiplier.min()) == 1
    assert torch.allclose(multiplier[:2].double() / 2**shift, real[:2], rtol=1e-4)
    assert shared_fixed_point(torch.tensor([1e-9])) == (torch.tensor([2]), 31)
    assert shared_fixed_point(torch.tensor([65535.4]))[1] == 0
    assert int(shared_fixed_point(torch.tensor([0.9999999]))[0]) == 65535
    with pytest.raises(ValueError, match="second rescaling factor"):
        shared_fixed_point(torch.tensor([70000.0]))


@pytest.mark.parametrize("bits", range(2, 9))
def test_affine_format(bits):
    low, high = torch.tensor([-1.0, 0.0, -3.0]), torch.tensor([2.0, 5.0, 0.0])
    form = AffineFormat.from_range(low, high, bits)
    assert form.quantize(torch.zeros(1, 3)).tolist() == [form.zero.tolist()]
    assert form.dequantize(form.zero[None]).tolist() == [[0.0, 0.0, 0.0]]
    values = low + (high - low) * torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    # Half a step from rounding, and half a step at the ends because the zero-point was rounded.
    assert ((form.dequantize(form.quantize(values)) - values).abs() <= 1.001 * form.scale).all()
    codes = torch.arange(2**bits)[:, None].expand(-1, 3)
    assert torch.equal(form.quantize(form.dequantize(codes)), codes)
    assert form.quantize(torch.full((1, 3), 1e9)).tolist() == [[2**bits - 1] * 3]


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantize_weight_is_narrow_and_finds_the_least_error(bits):
    weight = torch.randn(6, 40, 1, 1, generator=torch.Generator().manual_seed(0))
    weight[0], weight[1, 3] = 0.0, 20.0
    levels = 2 ** (bits - 1) - 1
    clipped, scale = quantize_weight(weight, bits)
    full, full_scale = quantize_weight(weight, bits, clip=False)
    assert clipped.dtype == torch.int8 and clipped.shape == weight.shape
    assert int(clipped.abs().max()) <= levels and int(full.abs().max()) == levels
    assert torch.allclose(full_scale[1:], weight[1:].flatten(1).abs().amax(1).double() / levels)

    def error(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (codes * scale[:, None, None, None] - weight).square().flatten(1).sum(1)

    assert (error(clipped, scale) <= error(full, full_scale) + 1e-12).all()
    assert (clipped[0] == 0).all() and float(scale[0]) > 0


def test_quantize_weight_respects_the_least_scale():
    weight = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    codes, scale = quantize_weight(weight, 8, least_scale=torch.tensor([0.5, 0.0]))
    assert float(scale[0]) == 0.5 and float(scale[1]) < 0.1
    assert torch.equal(codes[0].double(), torch.round(weight[0].double() / 0.5))


@pytest.mark.parametrize("index_bits", [4, 8, 10, 12])
@pytest.mark.parametrize("high", [0.0, 0.3, 3.0, 11.7, 40.0])
def test_hardswish_table(high, index_bits):
    table = hardswish_table(high, index_bits)
    size = 2**index_bits
    assert table.entries.shape == (size,) and 0 <= table.index_zero < size
    assert int(table.entries.abs().max()) == 32767
    inputs = (torch.arange(size) - table.index_zero).double() * table.index_scale
    assert torch.allclose(
        table.entries.double() * table.value_scale, torch.nn.functional.hardswish(inputs), atol=0.51 * table.value_scale
    )
    # It reaches from where the function is 0 to high, up to the rounding of index_zero.
    assert float(inputs[0]) <= -3.0 + 0.51 * table.index_scale
    assert float(inputs[-1]) >= high - 0.51 * table.index_scale


def test_hardswish_tables_are_few():
    """Pre-activation ranges of a whole network need a handful of tables."""
    tables = {tuple(hardswish_table(high / 10, 10).entries.tolist()) for high in range(1, 200)}
    assert len(tables) <= 4


def test_values_of_input_channels_for_every_filter():
    values = torch.arange(6)
    grouped = per_filter(values, torch.zeros(4, 3, 1, 1), 2)
    assert grouped[:, :, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert per_filter(values, torch.zeros(6, 1, 3, 3), 6).flatten().tolist() == list(range(6))
    assert per_filter(torch.tensor([7]), torch.zeros(2, 3, 1, 1), 1).flatten().tolist() == [7] * 6


def test_units_fitted_to_codes():
    codes = torch.randint(-7, 8, (5, 4, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    codes[4] = 0
    unit = torch.tensor([0.1, 0.2, 0.3, 1e-9, 0.5], dtype=torch.float64)
    least = torch.tensor([0.0, 0.0, 0.0, 1e-3, 1e-4], dtype=torch.float64)
    found = fitted_unit(codes, codes * unit.reshape(-1, 1, 1, 1), least)
    assert torch.allclose(found, torch.tensor([0.1, 0.2, 0.3, 1e-3, 1e-4], dtype=torch.float64))
