"""InstructionQueue: order, waits, event counts, fetches."""

from random import Random

import pytest

from hw.config import CONFIGS
from hw.control.descriptors import DepthwiseBody, Engine, StoreBody
from hw.control.instruction_queue import InstructionQueue
from tests.hw.support import simulate, stream_get, stream_put

CONFIG = CONFIGS["nano"]
NO_WAITS = [0] * len(Engine)
BASE = 0x45_0000_0000


def make(body=StoreBody, depth: int = 2) -> InstructionQueue:
    return InstructionQueue(CONFIG.replace(queue_depth=depth), body)


def test_offers_only_after_every_wait():
    dut = make()

    async def bench(ctx):
        for engine in Engine:
            waits = [5 if e == engine else 0 for e in Engine]
            await stream_put(ctx, dut.i, [{"waits": waits, "body": {"rows": engine + 1}}])
            await ctx.tick().repeat(8)
            ctx.set(dut.events[engine], 4)
            await ctx.tick().repeat(8)
            assert not ctx.get(dut.instruction.body.valid)
            ctx.set(dut.events[engine], 5)
            (body,) = await stream_get(ctx, dut.instruction.body, 1)
            assert body.rows == engine + 1
            ctx.set(dut.events, NO_WAITS)

    simulate(dut, bench)


@pytest.mark.parametrize(
    "wait, event, over", [(3, 65535, False), (65535, 2, True), (0, 0x7FFF, True), (0x8000, 0, False)]
)
def test_counts_wrap(wait, event, over):
    dut = make()

    async def bench(ctx):
        ctx.set(dut.events[Engine.NORM], event)
        await stream_put(ctx, dut.i, [{"waits": [0, 0, 0, wait, 0, 0], "body": {}}])
        await ctx.tick().repeat(5)
        assert ctx.get(dut.instruction.body.valid) == over

    simulate(dut, bench)


def test_latencies():
    dut = make()

    async def bench(ctx):
        await stream_put(ctx, dut.i, [{"waits": [1, 0, 0, 0, 0, 0], "body": {}}, {"waits": NO_WAITS, "body": {}}])
        await ctx.tick().repeat(5)
        ctx.set(dut.instruction.body.ready, 1)
        ctx.set(dut.events[0], 1)  # `completed` of another queue, one cycle after its `done`
        assert not ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        assert ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        assert not ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        assert ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await ctx.tick()
        await ctx.tick()
        assert ctx.get(dut.instruction.body.valid)

    simulate(dut, bench)


def test_without_a_fifo_the_head_takes_what_comes():
    dut = make(depth=0)

    async def bench(ctx):
        ctx.set(dut.instruction.body.ready, 1)
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        assert not ctx.get(dut.i.ready) and not ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        assert not ctx.get(dut.i.ready) and ctx.get(dut.instruction.body.valid)
        await ctx.tick()
        assert ctx.get(dut.i.ready)

    simulate(dut, bench)


def test_without_a_fifo_counts_were_reached_or_become_equal():
    dut = make(depth=0)
    everyone = (1 << len(Engine)) - 1

    async def bench(ctx):
        for engine in Engine:
            waits = [0x1FF if e == engine else 0 for e in Engine]
            for came_late in (True, False):  # whether the count was passed before the instruction came
                ctx.set(dut.events, [0x3000] * len(Engine))
                ctx.set(dut.events[engine], 0x2FE if came_late else 0x1FE)
                ctx.set(dut.reached, everyone if came_late else everyone & ~(1 << engine))
                await stream_put(ctx, dut.i, [{"waits": waits, "body": {"rows": engine + 1}}])
                ctx.set(dut.reached, 0)
                await ctx.tick().repeat(8)
                assert ctx.get(dut.instruction.body.valid) == came_late
                ctx.set(dut.events[engine], 0x1FF)  # for one cycle
                await ctx.tick()
                ctx.set(dut.events[engine], 0x200)
                (body,) = await stream_get(ctx, dut.instruction.body, 1)
                assert body.rows == engine + 1

    simulate(dut, bench)


@pytest.mark.parametrize("depth", [0, 2, 3, 4])
@pytest.mark.parametrize("idle", [0.0, 0.6])
def test_order_events_and_fetches(depth, idle):
    """Everything comes out once and in order, whatever the pace of each side; instructions without a stream do not
    fetch; the queue is idle exactly when all instructions are done."""
    dut = make(DepthwiseBody, depth)
    rng = Random(3)
    bodies = [
        {"rows": i, "stream_address": rng.getrandbits(32), "stream_words": rng.choice([0, rng.getrandbits(24)])}
        for i in range(50)
    ]
    fetches = [b for b in bodies if b["stream_words"]]
    rng_source, rng_engine, rng_stream = Random(4), Random(5), Random(6)

    async def source(ctx):
        ctx.set(dut.program_base, BASE)
        assert ctx.get(dut.idle)
        await stream_put(ctx, dut.i, [{"waits": NO_WAITS, "body": body} for body in bodies], rng_source, idle)

    async def engine(ctx):
        for index, body in enumerate(bodies):
            (taken,) = await stream_get(ctx, dut.instruction.body, 1, rng_engine, idle)
            assert taken.rows == body["rows"]
            assert ctx.get(dut.completed) == index and not ctx.get(dut.idle)
            ctx.set(dut.instruction.done, 1)
            await ctx.tick()
            ctx.set(dut.instruction.done, 0)
        await ctx.tick()
        assert ctx.get(dut.completed) == len(bodies) and ctx.get(dut.idle)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        assert ctx.get(dut.completed) == 0 and ctx.get(dut.idle)

    async def parameters(ctx):
        for fetch, expected in zip(await stream_get(ctx, dut.fetch, len(fetches), rng_stream, idle), fetches):
            assert fetch.address == (BASE + expected["stream_address"])
            assert fetch.words == expected["stream_words"]

    simulate(dut, source, engine, parameters)


def test_halt_withholds():
    dut = make()

    async def bench(ctx):
        await stream_put(ctx, dut.i, [{"waits": NO_WAITS, "body": {}}])
        await ctx.tick().repeat(5)
        ctx.set(dut.halt, 1)
        assert not ctx.get(dut.instruction.body.valid)

    simulate(dut, bench)
