"""ReadBuffer: every request, in order, one per cycle; data passes."""

from random import Random

import pytest

from hw.config import CONFIGS
from hw.memory.read_buffer import ReadBuffer
from tests.hw.support import simulate

CONFIG = CONFIGS["nano"]


@pytest.mark.parametrize("idle, refuse", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.5), (0.3, 0.6)])
def test_requests(idle, refuse):
    dut = ReadBuffer(CONFIG)
    rng = Random(1)
    requests = [(rng.randrange(4), rng.getrandbits(16)) for _ in range(200)]
    granted, cycles = [], []

    async def ask(ctx):
        for pad, address in requests:
            while rng.random() < idle:
                await ctx.tick()
            ctx.set(dut.i.pad, pad)
            ctx.set(dut.i.address, address)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def grant(ctx):
        refused = None
        while len(granted) < len(requests):
            ctx.set(dut.o.ready, rng.random() >= refuse)
            *_, valid, ready, pad, address = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.pad, dut.o.address)
            assert refused in (None, (valid, pad, address)), "a refused request must stand"
            refused = (valid, pad, address) if valid and not ready else None
            if valid and ready:
                granted.append((pad, address))
            cycles.append(valid and ready)

    simulate(dut, ask, grant)
    assert granted == requests
    if not idle and not refuse:
        assert cycles == [0] + [1] * len(requests)


def test_data_passes():
    dut = ReadBuffer(CONFIG)

    async def bench(ctx):
        for valid in (1, 0):
            ctx.set(dut.o.data_valid, valid)
            ctx.set(dut.o.data[0][0], 7 * valid)
            assert ctx.get(dut.i.data_valid) == valid and ctx.get(dut.i.data[0][0]) == 7 * valid

    simulate(dut, bench)
