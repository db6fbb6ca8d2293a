"""Errors of quotients by width of the divisor's mantissa."""

import pytest
import torch

from compiler.compile import compile_network
from compiler.errors import CompileError
from quant import numerics
from quant.divisors import divisor_table, quotient_errors, with_mantissa_bits
from quant.integer_network import LinearAttention
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network


@pytest.mark.parametrize("bits", range(9))
def test_errors_are_those_of_the_mantissa(bits):
    error = quotient_errors(torch.arange(1, 1 << 14), bits)
    if bits == 0:
        # Mantissas below 1.5 count as 1, others as 2: quotients are from 3/4 to 3/2 of the exact ones.
        assert -0.26 < float(error.min()) < -0.24 and 0.49 < float(error.max()) < 0.51
    else:
        # The centre of a cell is at most half a cell away.
        assert float(error.abs().max()) <= 2.0 ** -(bits + 1) + 2.0**-14
        assert float(error.abs().max()) > 2.0 ** -(bits + 2)


def test_a_table_has_a_row_per_width():
    network, images = tiny_network(images=4)
    classes = network.run(images).argmax(1)
    rows = list(divisor_table(network, images, labels=(classes + 1) % 10, float_classes=classes, widths=(0, 3, 8)))
    assert [row.mantissa_bits for row in rows] == [0, 3, 8]
    errors = [row.rms_error for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.05 and errors[-1] < 0.002
    assert rows[-1].agreement == 1.0 and rows[-1].top1 == 0.0
    assert all(row.rms_error <= row.worst_error for row in rows)


def test_only_the_table_changes():
    network, _ = tiny_network()
    other = with_mantissa_bits(network, 3)
    for before, after in zip(network.nodes, other.nodes):
        assert (before is after) != isinstance(before, LinearAttention)
    assert {node.mantissa_bits for node in other.nodes if isinstance(node, LinearAttention)} == {3}


def test_uniform_codes_of_divisors():
    divisors = torch.tensor([0, 1, 127, 128, 1000, 255 * 256, 1 << 20])
    codes = numerics.uniform_divisor(divisors, torch.tensor(1 << 15), torch.tensor(23))  # steps of 256
    assert codes.tolist() == [0, 0, 0, 1, 4, 255, 255]
    r, e = numerics.reciprocal(codes, 8)
    assert r[0] == e[0] == 0
    assert torch.allclose(torch.ldexp(r[3:].double(), -15 - e[3:]) * codes[3:], torch.ones(4).double(), rtol=3e-3)


def test_uniform_divisors_are_for_comparison_only():
    network, _ = tiny_network(32, divisor="uniform", **quantizer_settings(SMALL))
    with pytest.raises(CompileError, match="uniform steps, which no hardware makes"):
        compile_network(network, SMALL)
