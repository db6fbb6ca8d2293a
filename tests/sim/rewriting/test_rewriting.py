"""Rewritten Verilog describes the same hardware: Yosys proves it, unit by unit."""

from pathlib import Path

import pytest

from hw.arithmetic.rounding_shift import RoundingShift
from hw.control.sequencer import Sequencer
from hw.engines.attention import StateWriter
from hw.engines.matmul_writer import ResultWriter
from hw.engines.tile_loader import TileLoader
from sim.rewriting import rewrite
from tests.configs import SMALL
from tests.sim.rewriting.support import prove, text_of


@pytest.mark.parametrize(
    "component",
    [
        lambda: Sequencer(SMALL),
        lambda: StateWriter(SMALL),
        lambda: TileLoader(SMALL),
        lambda: ResultWriter(SMALL, 20),
        lambda: RoundingShift(33, 17),
    ],
    ids=["sequencer", "state_writer", "tile_loader", "result_writer", "rounding_shift"],
)
def test_hardware_is_the_same(component, tmp_path: Path) -> None:
    gold = text_of(component())
    gate = rewrite(gold)
    assert gate.count("always @*") < 0.3 * gold.count("always @*")
    proof = prove(tmp_path, "dut", gold, gate)
    assert proof.returncode == 0, proof.stdout + proof.stderr
