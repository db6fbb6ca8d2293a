"""The accelerator after synthesis."""

from pathlib import Path

import numpy as np
import pytest

from compiler.compile import compile_network
from hw.config import CONFIGS
from hw.verilog import generate_verilog
from sim.netlist import netlist_verilog
from sim.runner import simulate
from tests.configs import quantizer_settings
from tests.quant.support import tiny_network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pico", "nano"])
def test_netlist_of_ecp5_cells_equals_the_reference(name: str, tmp_path: Path) -> None:
    """A whole small network, on what Yosys makes of the accelerator: the same scores, in the same cycles as the RTL."""
    config = CONFIGS[name]
    rtl = tmp_path / "accelerator.v"
    rtl.write_text(generate_verilog(config))
    network, images = tiny_network(32, **quantizer_settings(config))
    program = compile_network(network, config)
    texts = {"netlist": netlist_verilog(rtl, tmp_path / "synthesis"), "rtl": rtl.read_text()}
    results = {
        kind: simulate(config, text, program, images[:1].numpy(), work_dir=tmp_path / kind)
        for kind, text in texts.items()
    }
    np.testing.assert_array_equal(results["netlist"].scores, network.run(images[:1]).numpy())
    assert results["netlist"].runs == results["rtl"].runs
