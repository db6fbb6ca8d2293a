"""cocotb test module of test_icarus.py: an accelerator between cocotbext-axi's master and memory runs one frame."""

import json
import logging
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.handle import SimHandleBase
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam


@cocotb.test()
async def one_frame(dut: SimHandleBase) -> None:
    """Write the program and an image to memory, run, and save what the accelerator wrote."""
    logging.getLogger("cocotb").setLevel(logging.WARNING)
    folder = Path(os.environ["VITSMITH_PLAN"])
    plan = json.loads((folder / "plan.json").read_text())
    cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
    dut.rst.value = 1
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
    ram = AxiRam(AxiBus.from_prefix(dut, "m"), dut.clk, dut.rst, size=plan["memory_bytes"])
    ram.write(plan["program_base"], (folder / "program.bin").read_bytes())
    ram.write(plan["input_base"], (folder / "image.bin").read_bytes())
    await ClockCycles(dut.clk, 8)
    dut.rst.value = 0
    for offset, value in plan["writes"]:
        await master.write_dword(offset, value)
    await with_timeout(RisingEdge(dut.irq), plan["cycles"] * 2, "ns")
    status = await master.read_dword(plan["status"])
    (folder / "scores.bin").write_bytes(ram.read(plan["result_base"], plan["result_bytes"]))
    assert not status & plan["error"]
