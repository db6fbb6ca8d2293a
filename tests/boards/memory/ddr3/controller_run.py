"""The cocotb tests of the simulated DDR3 controller; `test_controller.py` starts them and reads the report."""

import json
from pathlib import Path
from random import Random

import cocotb
from cocotb.handle import SimHandleBase
from cocotb.triggers import FallingEdge, RisingEdge

READ_WORDS = 2048
ACCESSES = 4000
RESET_CYCLES = 8


class Stream:
    """Accesses to the controller, and what it answers."""

    def __init__(self, dut: SimHandleBase) -> None:
        self.dut = dut
        self.answers: list[int] = []
        cocotb.start_soon(self._collect())

    async def _collect(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            if self.dut.answered.value:
                self.answers.append(int(self.dut.answer.value))

    async def access(self, address: int, data: int | None = None, mask: int = 0xFF) -> None:
        """A read, or a write; returns when it is accepted. Called at falling edges."""
        dut = self.dut
        dut.address.value, dut.write.value, dut.valid.value = address, data is not None, 1
        dut.data.value, dut.mask.value = data or 0, mask
        await FallingEdge(dut.clk)
        while not dut.accepted.value:
            await FallingEdge(dut.clk)
        dut.valid.value = 0

    async def answered(self, count: int) -> None:
        """Until so many answers have come."""
        while len(self.answers) < count:
            await FallingEdge(self.dut.clk)


async def reset(dut: SimHandleBase) -> int:
    """Reset, and wait until the chip is ready; returns the cycles that it took."""
    dut.rst.value = 1
    for _ in range(RESET_CYCLES):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    begin = int(dut.cycle.value)
    await RisingEdge(dut.ready)
    await FallingEdge(dut.clk)
    return int(dut.cycle.value) - begin


@cocotb.test()
async def controller(dut: SimHandleBase) -> None:
    """Random traffic, again after a reset in the middle of it; latency and rate."""
    rng, report = Random(1), {}
    report["start"] = await reset(dut)
    stream = Stream(dut)
    for _ in range(2):
        await traffic(stream, rng, ACCESSES)
        await stream.access(1 << 14)  # a row is open, and a read on its way
        report["start_again"] = await reset(dut)
        stream.answers.clear()

    await stream.access(64)
    begin = int(dut.cycle.value)
    await stream.answered(1)
    report["latency"] = int(dut.cycle.value) - begin
    stream.answers.clear()
    for address in range(READ_WORDS):
        await stream.access(address)
        if address == 0:
            begin = int(dut.cycle.value)
    report["rate"] = 8 * (READ_WORDS - 1) / (int(dut.cycle.value) - begin)
    await stream.answered(READ_WORDS)
    Path(cocotb.plusargs["report"]).write_text(json.dumps(report))


async def traffic(stream: Stream, rng: Random, count: int) -> None:
    """Reads and writes, in a few areas so that they meet, single and in rows; compared with a dictionary."""
    words, expected = {}, []
    areas = [rng.randrange(0, 1 << 22) & -8 for _ in range(8)]
    while count > 0:
        first, length, write = rng.choice(areas) + rng.randrange(8), rng.choice((1, 1, 2, 3, 16)), rng.random() < 0.5
        for address in range(first, first + length):
            if write or address not in words:
                data, mask = rng.getrandbits(64), 0xFF if address not in words else rng.choice((0xFF, 0x0F, 0x81))
                await stream.access(address, data, mask)
                bits = sum(0xFF << 8 * i for i in range(8) if mask >> i & 1)
                words[address] = words.get(address, 0) & ~bits | data & bits
            else:
                await stream.access(address)
                expected.append(words[address])
            for _ in range(rng.choice((0, 0, 0, 1, 40))):
                await FallingEdge(stream.dut.clk)
        count -= length
    await stream.answered(len(expected))
    assert stream.answers == expected
    stream.answers.clear()
