"""The page of what networks ask of hardware."""

import pytest

from quant.workload import Work
from vitsmith.workload import lanes, workload_markdown

WORK = Work(
    products=8_000_000, attention_products=2_000_000, outputs=100_000, tables=20_000, exponentials=50_000,
    softmax_rows=500, normalised=30_000, normalised_rows=300, residuals=10_000, weights=4_000_000,
)  # fmt: skip


def test_lanes_keep_up_with_the_array():
    found = lanes(WORK, 1000)  # 10,000 cycles
    assert found == pytest.approx({"requantizer": 15, "exponential": 5, "activation table": 2, "normalisation": 3})


def test_page():
    text = workload_markdown({"net": WORK}, 1000, size=96, command="vitsmith workload net")
    lines = text.splitlines()
    assert "    vitsmith workload net" in lines
    assert "| net | 10.0 | 20.0% | 4.00 | 50.0 | 0.5 | 20.0 | 30.0 | 0.3 | 10.0 | 100 |" in lines
    assert lines[-2:] == ["| net | 8 | 10 | 15.0 | 5.0 | 2.0 | 3.0 |", "| net | 4 | 5 | 30.0 | 10.0 | 4.0 | 6.0 |"]
