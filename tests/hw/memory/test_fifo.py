"""Small FIFOs: everything that goes in comes out, in order and in time."""

import random
from collections import deque

import pytest
from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

from hw.memory.fifo import Fifo
from hw.memory.stream_register import StreamRegister


def exercise(dut: Elaboratable, *, depth: int, offers: float, takes: float) -> list[int]:
    """Random traffic against a queue. Returns the number of entries in each cycle."""
    rng, levels = random.Random(1), []

    async def bench(ctx) -> None:
        queue, value = deque(), 0
        for _ in range(600):
            offered, taken = rng.random() < offers, rng.random() < takes
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.i.payload, value % 256)
            ctx.set(dut.o.ready, taken)
            assert ctx.get(dut.o.valid) == bool(queue)
            assert not queue or ctx.get(dut.o.payload) == queue[0]
            room = len(queue) < depth or (isinstance(dut, StreamRegister) and taken)
            assert ctx.get(dut.i.ready) == room
            await ctx.tick()
            if taken and queue:
                queue.popleft()
            if offered and room:
                queue.append(value % 256)
                value += 1
            levels.append(len(queue))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return levels


@pytest.mark.parametrize(("offers", "takes"), [(1.0, 1.0), (0.5, 0.5), (0.9, 0.3), (0.3, 0.9)])
@pytest.mark.parametrize("depth", [2, 3, 5, 16])
def test_fifo(depth: int, offers: float, takes: float) -> None:
    levels = exercise(Fifo(width=8, depth=depth), depth=depth, offers=offers, takes=takes)
    assert offers <= takes or max(levels) == depth


@pytest.mark.parametrize(("offers", "takes"), [(1.0, 1.0), (0.5, 0.5), (0.9, 0.3)])
def test_stream_register(offers: float, takes: float) -> None:
    exercise(StreamRegister(8), depth=1, offers=offers, takes=takes)
