"""Cycles of runs in RTL, exactly: any change of speed shows, and is either wanted, or a fault."""

from pathlib import Path

import numpy as np
import pytest

from compiler.compile import compile_network
from hw.verilog import generate_verilog
from sim.runner import MemoryModel, simulate
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network

#: cycles of a run on `SMALL`, by network, image size, and frames of the run; memory of 60 cycles and 64 bytes per cycle
CYCLES = {
    ("tiny", 32, 1): 18_850,
    ("tiny", 32, 4): 60_142,
    ("tiny", 64, 1): 31_767,
    ("tiny", 64, 2): 60_042,
    ("odd", 32, 1): 24_231,
}


@pytest.mark.parametrize(("name", "size", "batch"), CYCLES)
def test_cycles(name: str, size: int, batch: int, tmp_path: Path) -> None:
    network, images = tiny_network(size, seed=2 if name == "odd" else 0, name=name, **quantizer_settings(SMALL))
    images = np.resize(images.numpy(), (batch, *images.shape[1:]))
    program = compile_network(network, SMALL, batch=batch)
    memory = MemoryModel(latency=60, bytes_per_cycle=64)
    result = simulate(SMALL, generate_verilog(SMALL), program, images, memory=memory, work_dir=tmp_path)
    assert result.runs[0].cycles == CYCLES[name, size, batch]
