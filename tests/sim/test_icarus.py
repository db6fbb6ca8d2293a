"""The accelerator in another simulator, Icarus Verilog, with four values per bit, and with someone else's bus models.

Verilator has two values per bit, and the memory model of `sim` is this project's own: what both would overlook shows
here, registers without a reset above all, which begin as x.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cocotb_tools.runner import get_results, get_runner

from compiler.compile import compile_network
from compiler.results import decode_scores
from hw.config import AcceleratorConfig
from hw.control.registers import BY_NAME
from hw.verilog import generate_verilog
from tests.configs import ODD, SMALL, quantizer_settings
from tests.quant.support import tiny_network

PAGE = 4096
# cocotbext-axi wants identifiers, which the accelerator does without.
TOP = """
module one_accelerator (
    input clk, input rst, output irq,
    input [{address}-1:0] s_axi_awaddr, input [2:0] s_axi_awprot, input s_axi_awvalid, output s_axi_awready,
    input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb, input s_axi_wvalid, output s_axi_wready,
    output [1:0] s_axi_bresp, output s_axi_bvalid, input s_axi_bready,
    input [{address}-1:0] s_axi_araddr, input [2:0] s_axi_arprot, input s_axi_arvalid, output s_axi_arready,
    output [31:0] s_axi_rdata, output [1:0] s_axi_rresp, output s_axi_rvalid, input s_axi_rready,
    output [7:0] m_awid, output [{bus_address}-1:0] m_awaddr, output [7:0] m_awlen, output [2:0] m_awsize,
    output [1:0] m_awburst, output m_awvalid, input m_awready, output [{bits}-1:0] m_wdata,
    output [{bits}/8-1:0] m_wstrb, output m_wlast, output m_wvalid, input m_wready, input [7:0] m_bid,
    input [1:0] m_bresp, input m_bvalid, output m_bready, output [7:0] m_arid, output [{bus_address}-1:0] m_araddr,
    output [7:0] m_arlen, output [2:0] m_arsize, output [1:0] m_arburst, output m_arvalid, input m_arready,
    input [7:0] m_rid, input [{bits}-1:0] m_rdata, input [1:0] m_rresp, input m_rlast, input m_rvalid, output m_rready
);
  assign m_awid = 0, m_arid = 0;
  vitsmith accelerator (.clk(clk), .rst(rst), .irq(irq),
{connections}
  );
endmodule
"""
SLAVE = "awaddr awprot awvalid awready wdata wstrb wvalid wready bresp bvalid bready araddr arprot arvalid arready"
MASTER = "awaddr awlen awsize awburst awvalid awready wdata wstrb wlast wvalid wready bresp bvalid bready"
MASTER += " araddr arlen arsize arburst arvalid arready rdata rresp rlast rvalid rready"


def top(config: AcceleratorConfig) -> str:
    ports = [f"s_axi_{name}" for name in f"{SLAVE} rdata rresp rvalid rready".split()]
    connections = [f"      .{name}({name})" for name in ports]
    connections += [f"      .m0_axi_{name}(m_{name})" for name in MASTER.split()]
    return TOP.format(
        address=12, bus_address=config.address_bits, bits=config.bus_bits, connections=",\n".join(connections)
    )


def pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@pytest.mark.skipif(not shutil.which("iverilog"), reason="needs Icarus Verilog (on Debian: apt install iverilog)")
@pytest.mark.parametrize("config", [SMALL, pytest.param(ODD, marks=pytest.mark.slow)], ids=lambda config: config.name)
def test_scores_in_icarus(config: AcceleratorConfig, tmp_path: Path) -> None:
    network, images = tiny_network(32, **quantizer_settings(config))
    program = compile_network(network, config)
    image = images.numpy()[:1]
    input_base = pages(len(program.image))
    result_base = input_base + pages(program.input_bytes)
    bases = {"PROGRAM": 0, "INPUT": input_base, "RESULT": result_base}
    writes = [(BY_NAME[f"{name}_BASE_LO"].offset, base) for name, base in bases.items()]
    control = BY_NAME["CONTROL"]
    start = 1 << control.field("start").bit | 1 << control.field("irq_enable").bit
    writes += [(BY_NAME["RESULT_BYTES"].offset, program.result_bytes), (control.offset, start)]
    plan = {
        "memory_bytes": result_base + pages(program.result_bytes), "program_base": 0, "input_base": input_base,
        "result_base": result_base, "result_bytes": program.result_bytes, "writes": writes,
        "status": BY_NAME["STATUS"].offset, "error": 1 << BY_NAME["STATUS"].field("error").bit,
        "cycles": 10 * round(program.predicted_cycles),
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "program.bin").write_bytes(program.image)
    (tmp_path / "image.bin").write_bytes(image.tobytes())
    (tmp_path / "top.v").write_text(top(config))
    (tmp_path / "accelerator.v").write_text(generate_verilog(config))
    runner = get_runner("icarus")
    runner.build(
        sources=[tmp_path / "accelerator.v", tmp_path / "top.v"], hdl_toplevel="one_accelerator",
        build_dir=tmp_path / "build", timescale=("1ns", "1ns"),
    )  # fmt: skip
    results = runner.test(
        "tests.sim.icarus_run", "one_accelerator", hdl_toplevel_lang="verilog", build_dir=tmp_path / "build",
        test_dir=tmp_path, extra_env={"VITSMITH_PLAN": str(tmp_path)},
    )  # fmt: skip
    assert get_results(results) == (1, 0)
    stored = program.stored[0]
    scores = decode_scores(config, stored, np.frombuffer((tmp_path / "scores.bin").read_bytes(), np.uint8))
    np.testing.assert_array_equal(scores, network.run(images[:1]).numpy()[0])
