"""cocotb test module of test_memory_protocol.py: cocotbext-axi's AxiMaster on the memory model."""

import logging
import random

import cocotb
from cocotb.clock import Clock
from cocotb.handle import SimHandleBase
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

RESULT_BASE = 0x80_1234_0000
RESULT_BYTES = 1 << 14


async def start(dut: SimHandleBase) -> AxiMaster:
    logging.getLogger("cocotb").setLevel(logging.WARNING)
    cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
    dut.rst.value = 1
    master = AxiMaster(AxiBus.from_prefix(dut, "m"), dut.clk, dut.rst)
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return master


@cocotb.test()
async def random_accesses(dut: SimHandleBase) -> None:
    """Several writes, then several reads in flight at once, with partial last beats, against a byte array."""
    master = await start(dut)
    rng = random.Random(1)
    expected = bytearray(b"\xa5" * RESULT_BYTES)
    for _ in range(6):
        writes = []
        for _ in range(4):
            offset, size = rng.randrange(0, RESULT_BYTES - 3000, 8), rng.randint(1, 3000)
            content = rng.randbytes(size)
            expected[offset : offset + size] = content
            writes.append(cocotb.start_soon(master.write(RESULT_BASE + offset, content, awid=0)))
        for write in writes:
            assert (await with_timeout(write, 1, "ms")).resp == AxiResp.OKAY
        reads = []
        for _ in range(4):
            offset, size = rng.randrange(0, RESULT_BYTES - 5000, 8), rng.randint(1, 5000)
            reads.append((offset, size, cocotb.start_soon(master.read(RESULT_BASE + offset, size, arid=0))))
        for offset, size, read in reads:
            answer = await with_timeout(read, 1, "ms")
            assert answer.resp == AxiResp.OKAY
            assert answer.data == bytes(expected[offset : offset + size])
    assert not dut.fault.value


@cocotb.test()
async def errors(dut: SimHandleBase) -> None:
    """SLVERR in the range that has errors, DECERR where there is no memory, and stray writes."""
    master = await start(dut)
    error = RESULT_BASE + RESULT_BYTES - 64
    assert (await master.read(error, 8, arid=0)).resp == AxiResp.SLVERR
    assert (await master.write(error, bytes(8), awid=0)).resp == AxiResp.SLVERR
    assert (await master.read(error - 8, 16, arid=0)).resp == AxiResp.SLVERR  # one beat of two
    assert (await master.read(RESULT_BASE - 4096, 8, arid=0)).resp == AxiResp.DECERR
    assert (await master.write(RESULT_BASE - 4096, bytes(8), awid=0)).resp == AxiResp.OKAY
    assert not dut.fault.value
