"""Errors and differing codes by width of the tables."""

import pytest

from quant import numerics
from quant.config import QuantizerConfig
from quant.tables import CODE_BITS, gelu_rows, power_rows, reciprocal_rows, root_rows


@pytest.mark.parametrize("rows, widths", [(power_rows, (3, 6, 8)), (reciprocal_rows, (2, 5, 8)), (root_rows, (5, 8)),
                                          (gelu_rows, (7, 10))])  # fmt: skip
def test_more_entries_are_better(rows, widths):
    found = list(rows(widths))
    assert [row.index_bits for row in found] == list(widths)
    for values in zip(*((row.worst_error, row.rms_error, *row.disagreement[:2]) for row in found)):
        assert list(values) == sorted(values, reverse=True) and len(set(values)) == len(values)
    assert all(0 < row.rms_error < row.worst_error and len(row.disagreement) == len(CODE_BITS) for row in found)
    assert found[-1].table_bits == 16 << widths[-1]


def test_errors_are_those_of_half_an_index_step():
    (power,), (reciprocal,), (root,) = power_rows((6,)), reciprocal_rows((8,)), root_rows((8,))
    assert 2 ** (0.5 / 64) - 1 <= power.worst_error < 2 ** (0.5 / 64) - 1 + 2**-15
    assert 2**-9 - 2**-14 < reciprocal.worst_error < 2**-9 + 2**-14
    assert 2**-9 - 2**-14 < root.worst_error < 2**-9 + 2**-14


def test_defaults_cost_less_than_a_rounded_code():
    """At 4 bits, fewer than one code in 150 differs from float."""
    config = QuantizerConfig()
    rows = [
        *power_rows((config.exp_index_bits,)), *reciprocal_rows((config.divisor_mantissa_bits,)),
        *root_rows((numerics.NORM_INDEX_BITS,)), *gelu_rows((config.table_index_bits,)),
    ]  # fmt: skip
    assert max(row.disagreement[1] for row in rows) < 1 / 150
