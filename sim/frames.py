"""The cocotb test that runs programs, each for a batch of frames: registers before and after, and no Python in between.

`sim.runner` starts it with `+plan=FILE` (contents: `_plan` there); it appends one line of JSON per run to the plan's
`log` file.
"""

import json
import time
from pathlib import Path

import cocotb
from cocotb.handle import SimHandleBase
from cocotb.triggers import RisingEdge, Timer, ValueChange

RESET_CYCLES = 8
CLOCK_STEPS = 2  #: nanoseconds per clock cycle of testbench.sv
OKAY = 0


class Registers:
    """Reads and writes the accelerator's registers by name, through register_master.sv."""

    def __init__(self, dut: SimHandleBase, offsets: dict[str, int]) -> None:
        self.dut = dut
        self.offsets = offsets

    async def read(self, name: str) -> int:
        """The value of a register."""
        await self._access(name, write=0)
        return int(self.dut.read_data.value)

    async def read_wide(self, name: str) -> int:
        """The value of a pair of registers NAME_LO and NAME_HI."""
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        self.dut.write_data.value = value
        await self._access(name, write=1)

    async def write_base(self, name: str, address: int) -> None:
        """Write a base address, registers NAME_BASE_LO and NAME_BASE_HI."""
        await self.write(f"{name}_BASE_LO", address & 0xFFFFFFFF)
        await self.write(f"{name}_BASE_HI", address >> 32)

    async def _access(self, name: str, write: int) -> None:
        self.dut.address.value = self.offsets[name]
        self.dut.write.value = write
        self.dut.request.value = 1 - int(self.dut.done.value)
        await ValueChange(self.dut.done)
        assert int(self.dut.response.value) == OKAY, f"access to {name} was answered with an error"


@cocotb.test()
async def frames(dut: SimHandleBase) -> None:
    """Reset, check what accelerator this is, and do every run of the plan until one fails."""
    plan = json.loads(Path(cocotb.plusargs["plan"]).read_text())
    registers = Registers(dut, plan["registers"])
    for reset in (1, 0):
        dut.reset.value = reset
        await Timer(RESET_CYCLES * CLOCK_STEPS, "ns")
    with Path(plan["log"]).open("w") as log:
        identity = {name: await registers.read(name) for name in plan["identity"]}
        log.write(json.dumps({"identity": identity}) + "\n")
        if identity != plan["identity"]:
            return
        await registers.write_base("PROGRAM", plan["program_base"])
        await registers.write("RESULT_BYTES", plan["result_bytes"])
        await registers.write("TIMEOUT", plan["timeout"])
        for index in range(plan["runs"]):
            record = await run_frame(dut, registers, plan, index)
            log.write(json.dumps(record) + "\n")
            log.flush()
            if record["failed"]:
                return


async def run_frame(dut: SimHandleBase, registers: Registers, plan: dict, index: int) -> dict:
    """Run the program once and return what happened."""
    result_base = plan["result_base"] + index * plan["result_stride"]
    dut.frame.value = index
    dut.result_base.value = result_base
    dut.result_bytes.value = plan["result_bytes"]
    await registers.write_base("INPUT", plan["input_base"] + index * plan["input_stride"])
    await registers.write_base("RESULT", result_base)
    first, began = int(dut.cycle.value), time.perf_counter()
    dut.deadline.value = first + plan["deadline"]
    dut.armed.value = 1
    await registers.write("CONTROL", plan["start"])
    if not int(dut.wake.value):
        await RisingEdge(dut.wake)
    seconds, waited = time.perf_counter() - began, int(dut.cycle.value) - first
    interrupted, broken = int(dut.irq.value), int(dut.fault.value)
    dut.armed.value = 0
    status = await registers.read("STATUS")
    record = {
        "frame": index,
        "failed": bool(broken or not interrupted or status & plan["error"]),
        "interrupted": bool(interrupted),
        "first_cycle": first,
        "waited": waited,
        "seconds": seconds,
        "status": status,
        "cycles": await registers.read_wide("CYCLES"),
        "counters": {name: await registers.read(name) for name in plan["counters"]},
    }
    await registers.write("STATUS", plan["interrupt"])
    return record
