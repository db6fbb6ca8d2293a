"""cocotb tests of `test_axi4_protocol.Copier`."""

from random import Random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiRam

BYTES = 8
SIZE = 1 << 16


async def start(dut, stall: float, seed: int) -> tuple[AxiRam, Random]:
    """Reset, and a memory with random contents behind channels that pause with probability `stall`."""
    rng = Random(seed)
    for name in ("source", "destination", "summed"):
        getattr(dut, f"{name}_valid").value = 0
    dut.halt.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "axi"), dut.clk, dut.rst, size=SIZE)
    ram.write(0, rng.randbytes(SIZE))
    if stall:
        channels = (
            ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel,
            ram.read_if.ar_channel, ram.read_if.r_channel,
        )  # fmt: skip
        for index, channel in enumerate(channels):
            pauses = Random(seed + index)
            channel.set_pause_generator(iter(lambda pauses=pauses: pauses.random() < stall, None))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return ram, rng


async def put(dut, name: str, address: int, beats: int) -> None:
    """Give a command to the unit `name`."""
    getattr(dut, name).value = address | beats << 40
    getattr(dut, f"{name}_valid").value = 1
    while True:
        await RisingEdge(dut.clk)
        if getattr(dut, f"{name}_ready").value:
            break
    getattr(dut, f"{name}_valid").value = 0


async def copy_and_sum(dut, ram: AxiRam, rng: Random, count: int) -> None:
    """Copy random regions of the lower half of memory to the upper half, while other regions are summed."""
    expected = bytearray(ram.read(0, SIZE))
    lower = bytes(expected[: SIZE // 2])
    copies, sums, total = [], [], int(dut.sum.value)
    copied = int(dut.copied.value)
    for _ in range(count):
        beats = rng.choice([1, 15, 16, 17, rng.randint(1, 300)])
        source, destination = (rng.randrange(0, SIZE // 2 - beats * BYTES, BYTES) for _ in range(2))
        destination += SIZE // 2
        copies.append((source, destination, beats))
        expected[destination : destination + beats * BYTES] = lower[source : source + beats * BYTES]
        beats = rng.randint(1, 200)
        source = rng.randrange(0, SIZE // 2 - beats * BYTES, BYTES)
        sums.append((source, beats))
        region = lower[source : source + beats * BYTES]
        total += sum(int.from_bytes(region[i : i + BYTES], "little") for i in range(0, len(region), BYTES))

    async def sources() -> None:
        for source, _, beats in copies:
            await put(dut, "source", source, beats)

    async def summed() -> None:
        for source, beats in sums:
            await put(dut, "summed", source, beats)

    tasks = [cocotb.start_soon(sources()), cocotb.start_soon(summed())]
    for _, destination, beats in copies:
        await put(dut, "destination", destination, beats)
    for task in tasks:
        await task
    for _ in range(100_000):
        await RisingEdge(dut.clk)
        if int(dut.copied.value) == copied + count and not dut.outstanding.value:
            break
    await ClockCycles(dut.clk, 5)
    assert int(dut.copied.value) == copied + count
    assert int(dut.sum.value) == total % (1 << 64)
    assert int(dut.errors.value) == 0
    assert ram.read(0, SIZE) == bytes(expected)


@cocotb.test()
async def without_stalls(dut) -> None:
    ram, rng = await start(dut, 0, 1)
    await copy_and_sum(dut, ram, rng, 12)


@cocotb.test()
async def with_stalls(dut) -> None:
    ram, rng = await start(dut, 0.5, 2)
    await copy_and_sum(dut, ram, rng, 12)


@cocotb.test()
async def halt_ends_traffic(dut) -> None:
    ram, rng = await start(dut, 0.2, 3)
    await put(dut, "source", 0, 2000)
    await put(dut, "destination", SIZE // 2, 2000)
    await ClockCycles(dut.clk, 200)
    dut.halt.value = 1
    await ClockCycles(dut.clk, 200)
    assert not dut.outstanding.value and not dut.axi_arvalid.value and not dut.axi_awvalid.value
    assert not dut.axi_wvalid.value
    before = ram.read(0, SIZE)
    await ClockCycles(dut.clk, 100)
    assert ram.read(0, SIZE) == before
    dut.halt.value = 0
    while int(dut.copied.value) == 0:
        await RisingEdge(dut.clk)
    assert ram.read(SIZE // 2, 16000) == ram.read(0, 16000)
