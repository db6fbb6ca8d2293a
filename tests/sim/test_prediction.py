"""Predicted cycles against RTL."""

from pathlib import Path

import numpy as np
import pytest

from compiler.compile import compile_network
from compiler.rehearsal import MemoryTiming
from hw.verilog import generate_verilog
from sim.runner import MemoryModel, simulate
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("latency", "rate", "error"), [(60, 64, 0.02), (200, 4, 0.05)])
def test_runs_are_predicted(batch: int, latency: int, rate: float, error: float, tmp_path: Path) -> None:
    """Within 2 % where the memory keeps up; a memory that everything waits for is predicted about 3 % too fast."""
    network, images = tiny_network(64, **quantizer_settings(SMALL))
    program = compile_network(network, SMALL, batch=batch, memory=MemoryTiming(latency=latency, bytes_per_cycle=rate))
    memory = MemoryModel(latency=latency, bytes_per_cycle=rate)
    images = np.resize(images.numpy(), (batch, *images.shape[1:]))
    result = simulate(SMALL, generate_verilog(SMALL), program, images, memory=memory, work_dir=tmp_path)
    assert program.predicted_cycles == pytest.approx(result.runs[0].cycles, rel=error)
