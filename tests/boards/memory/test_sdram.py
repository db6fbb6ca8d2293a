"""The SDRAM controller against a chip that checks its timing."""

from dataclasses import replace
from random import Random

import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from boards.memory.chips import SLOWEST_256_MBIT
from boards.memory.ports import MemoryPorts
from boards.memory.sdram import SdramController
from tests.boards.sdram_model import SdramModel

CLOCK = 1e-6
CHIP = replace(SLOWEST_256_MBIT, t_init=2_000)  # a short power-up
DEADLINE = 40_000


class Memory(Elaboratable):
    """Two ports, a controller, and the clock domain of the chip."""

    def __init__(self, frequency: float) -> None:
        self.controller = SdramController(CHIP, CHIP.timing(frequency), pin_registers=False)
        self.axi = MemoryPorts(ports=2, words=CHIP.size // 8)
        self.ports = self.axi.ports

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sdram = ClockDomain(reset_less=True)
        m.submodules.controller = self.controller
        m.submodules.axi = self.axi
        connect(m, self.axi.access, self.controller.access)
        m.d.comb += [
            self.axi.read_data.eq(self.controller.read_data),
            self.axi.read_valid.eq(self.controller.read_valid),
        ]
        return m


def simulate(dut: Memory, frequency: float, *benches) -> SdramModel:
    model = SdramModel(CHIP, 1e9 / frequency)
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    model.attach(simulator, dut.controller.pins, CLOCK)

    async def watchdog(ctx) -> None:
        for _ in range(DEADLINE):
            await ctx.tick()
        raise TimeoutError

    for bench in benches:
        simulator.add_testbench(bench)
    simulator.add_testbench(watchdog, background=True)
    simulator.run()
    return model


async def write(ctx, port, address: int, words: list[int], mask: int = 0xFF, rng: Random | None = None) -> int:
    """A burst; returns its response."""
    bus = port.write
    ctx.set(bus.awaddr, address)
    ctx.set(bus.awlen, len(words) - 1)
    ctx.set(bus.awvalid, 1)
    await ctx.tick().until(bus.awready)
    ctx.set(bus.awvalid, 0)
    for index, word in enumerate(words):
        while rng and rng.random() < 0.3:
            await ctx.tick()
        ctx.set(bus.wdata, word)
        ctx.set(bus.wstrb, mask)
        ctx.set(bus.wlast, index == len(words) - 1)
        ctx.set(bus.wvalid, 1)
        await ctx.tick().until(bus.wready)
        ctx.set(bus.wvalid, 0)
    ctx.set(bus.bready, 1)
    (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
    ctx.set(bus.bready, 0)
    return response.value


async def read(ctx, port, address: int, count: int, rng: Random | None = None) -> tuple[list[int], set[int]]:
    """Words of a burst, and its responses."""
    bus = port.read
    ctx.set(bus.araddr, address)
    ctx.set(bus.arlen, count - 1)
    ctx.set(bus.arvalid, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)
    words, responses = [], set()
    for index in range(count):
        while rng and rng.random() < 0.3:
            await ctx.tick()
        ctx.set(bus.rready, 1)
        word, last, response = await ctx.tick().sample(bus.rdata, bus.rlast, bus.rresp).until(bus.rvalid)
        ctx.set(bus.rready, 0)
        assert last == (index == count - 1)
        words.append(word)
        responses.add(response.value)
    return words, responses


@pytest.mark.parametrize("frequency", [25e6, 50e6, 96e6, 130e6])
def test_random_traffic(frequency: float) -> None:
    """Two initiators with memory areas of their own, spread over rows and banks; full and partial writes."""
    dut = Memory(frequency)

    def bench(index: int):
        async def run(ctx) -> None:
            rng = Random(index)
            expected: dict[int, int] = {}
            # areas at both sides of row and bank boundaries, which the initiators share half and half
            areas = [rng.randrange(0, 1 << 24, 1024) + 512 * index for _ in range(6)]
            for _ in range(60):
                base = rng.choice(areas) + 8 * rng.randrange(48)
                count = rng.randint(1, 16)
                if rng.random() < 0.5:
                    words, mask = [rng.getrandbits(64) for _ in range(count)], rng.choice([0xFF, 0xFF, 0x0F, 0x81])
                    assert await write(ctx, dut.ports[index], base, words, mask, rng) == 0
                    bits = sum(0xFF << 8 * i for i in range(8) if mask >> i & 1)
                    for i, word in enumerate(words):
                        expected[base + 8 * i] = expected.get(base + 8 * i, 0) & ~bits | word & bits
                else:
                    words, responses = await read(ctx, dut.ports[index], base, count, rng)
                    assert responses == {0}
                    assert words == [expected.get(base + 8 * i, 0) for i in range(count)]

        return run

    model = simulate(dut, frequency, bench(0), bench(1))
    assert model.mode == (2 if frequency <= 100e6 else 3)
    refresh = CHIP.t_refresh * 1e-9 * frequency
    running = model.refreshes[8:]
    assert all(b - a < refresh + 100 for a, b in zip(running, running[1:]))
    assert len(running) >= model.cycle // refresh - 1


def test_beyond_the_end() -> None:
    dut = Memory(50e6)

    async def bench(ctx) -> None:
        port = dut.ports[1]
        assert await write(ctx, port, 0x100, [1, 2]) == 0
        assert await write(ctx, port, CHIP.size + 0x100, [3, 4]) == 3
        assert await read(ctx, port, CHIP.size + 0x100, 2) == ([1, 2], {3})
        assert await read(ctx, port, 0x100, 2) == ([1, 2], {0})
        assert await read(ctx, port, 1 << 39, 1) == ([0], {3})

    simulate(dut, 50e6, bench)


def test_bandwidth_of_long_reads() -> None:
    """Bursts of 16 beats back to back: the chip's two bytes per cycle, but for rows and refreshes."""
    dut, bursts, cycles = Memory(50e6), 128, [0]

    async def ask(ctx) -> None:
        bus = dut.ports[0].read
        await read(ctx, dut.ports[0], 0, 1)  # after power-up
        ctx.set(bus.arlen, 15)
        ctx.set(bus.arvalid, 1)
        ctx.set(bus.rready, 1)
        for index in range(bursts):
            ctx.set(bus.araddr, 128 * index)
            await ctx.tick().until(bus.arready)
        ctx.set(bus.arvalid, 0)

    async def count(ctx) -> None:
        bus, beats, first = dut.ports[0].read, 0, 0
        async for _, _, valid in ctx.tick().sample(bus.rvalid & bus.rready):
            cycles[0] += 1
            beats += valid
            if beats == 1 and valid:
                first = cycles[0]
            if beats == 1 + 16 * bursts:
                break
        cycles[0] -= first

    simulate(dut, 50e6, ask, count)
    rate = 128 * bursts / cycles[0]
    print(f"{rate:.3f} bytes per cycle")
    assert rate > 1.9


def test_clocks_beyond_the_chip_are_refused() -> None:
    with pytest.raises(ValueError, match="133 MHz"):
        SLOWEST_256_MBIT.timing(150e6)
