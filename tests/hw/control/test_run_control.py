"""RunControl: the states of a run, errors and their priority, the watchdog, soft reset."""

import pytest

from hw.control.registers import ErrorCode
from hw.control.run_control import FLUSH_CYCLES, QUIET_CYCLES, RunControl
from tests.hw.support import simulate

STATES = ("idle", "busy", "done", "error", "running", "halt", "clear")


async def pulse(ctx, signal) -> None:
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


def check(ctx, dut, *states: str) -> None:
    assert {state for state in STATES if ctx.get(getattr(dut, state))} == set(states)


def run(bench) -> None:
    dut = RunControl()

    async def testbench(ctx):
        await bench(ctx, dut)

    simulate(dut, testbench)


def test_good_runs():
    async def bench(ctx, dut):
        check(ctx, dut, "idle")
        for _ in range(2):
            await pulse(ctx, dut.start)
            check(ctx, dut, "busy", "running")
            ctx.set(dut.start, 1)
            await ctx.tick().repeat(3)
            assert not ctx.get(dut.begin)  # a start is ignored while busy
            ctx.set(dut.start, 0)
            await pulse(ctx, dut.ended)
            check(ctx, dut, "idle", "done")
            assert ctx.get(dut.interrupt)
            await pulse(ctx, dut.acknowledge)
            assert not ctx.get(dut.interrupt)
            check(ctx, dut, "idle", "done")

    run(bench)


@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("first", ["result_range", "bus_read", "bus_write", "fault"])
def test_first_error_stops_the_run(first, simultaneous):
    order = ["result_range", "bus_read", "bus_write", "fault"]
    codes = [ErrorCode.RESULT_RANGE, ErrorCode.BUS_READ, ErrorCode.BUS_WRITE, ErrorCode.BAD_CRC]

    async def bench(ctx, dut):
        def raise_error(name: str) -> None:
            ctx.set(getattr(dut, name), ErrorCode.BAD_CRC if name == "fault" else 1)

        for name in order:
            raise_error(name)  # errors before the run do not count
        await ctx.tick().repeat(3)
        for name in order:
            ctx.set(getattr(dut, name), 0)
        await pulse(ctx, dut.start)
        ctx.set(dut.packet, 77)
        later = order[order.index(first) :]
        for name in later if simultaneous else [first]:
            raise_error(name)
        ctx.set(dut.ended, 1)
        await ctx.tick()
        for name in order:
            raise_error(name)
        ctx.set(dut.packet, 99)
        await ctx.tick().repeat(3)
        check(ctx, dut, "error", "halt")
        assert ctx.get(dut.error_code) == codes[order.index(first)]
        assert ctx.get(dut.error_info) == 77
        assert ctx.get(dut.interrupt)
        await pulse(ctx, dut.start)
        check(ctx, dut, "error", "halt")

    run(bench)


@pytest.mark.parametrize("timeout", [2, 20])
def test_watchdog(timeout):
    async def bench(ctx, dut):
        ctx.set(dut.timeout, timeout)
        await ctx.tick().repeat(2 * timeout)
        await pulse(ctx, dut.start)
        for _ in range(3):
            await ctx.tick().repeat(timeout - 1)
            await pulse(ctx, dut.progress)
            check(ctx, dut, "busy", "running")
        await ctx.tick().repeat(timeout)
        check(ctx, dut, "busy", "running")
        await ctx.tick()
        check(ctx, dut, "error", "halt")
        assert ctx.get(dut.error_code) == ErrorCode.TIMEOUT

    run(bench)


def test_no_watchdog():
    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(300)
        check(ctx, dut, "busy", "running")

    run(bench)


@pytest.mark.parametrize("state", ["idle", "running", "error"])
def test_soft_reset_waits_for_the_bus(state):
    async def bench(ctx, dut):
        if state != "idle":
            await pulse(ctx, dut.start)
        if state == "error":
            await pulse(ctx, dut.bus_read)
        ctx.set(dut.outstanding, 1)
        await pulse(ctx, dut.soft_reset)
        await ctx.tick().repeat(100)
        check(ctx, dut, *("busy", "halt"))
        ctx.set(dut.outstanding, 0)
        await ctx.tick().repeat(QUIET_CYCLES - 1)
        await pulse(ctx, dut.outstanding)  # a burst that was just on its way
        await ctx.tick().repeat(QUIET_CYCLES - 1)
        assert not ctx.get(dut.clear)
        await pulse(ctx, dut.soft_reset)  # changes nothing
        assert ctx.get(dut.clear)
        await ctx.tick().repeat(FLUSH_CYCLES)
        check(ctx, dut, "idle")
        assert ctx.get(dut.error_code) == ErrorCode.NONE and ctx.get(dut.error_info) == 0
        await pulse(ctx, dut.start)
        check(ctx, dut, "busy", "running")

    run(bench)
