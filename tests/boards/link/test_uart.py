"""The serial line."""

from random import Random

import pytest
from amaranth.hdl import Module

from boards.link.uart import UartReceiver, UartTransmitter, line_divider
from tests.hw.support import simulate, stream_put


@pytest.mark.parametrize("divider", [4, 5, 16])
def test_transmitter_and_receiver(divider: int) -> None:
    """Random bytes with random pauses arrive; without pauses, a byte takes 10 bits and a cycle."""
    rng = Random(divider)
    data = rng.randbytes(60)
    received, cycles = [], []
    sender, receiver = UartTransmitter(divider), UartReceiver(divider)

    m = Module()
    m.submodules.sender, m.submodules.receiver = sender, receiver
    m.d.comb += receiver.line.eq(sender.line)

    async def send(ctx) -> None:
        await stream_put(ctx, sender.i, data[:30])
        await stream_put(ctx, sender.i, data[30:], rng, idle=0.97)

    async def receive(ctx) -> None:
        cycle = 0
        while len(received) < len(data):
            strobe, byte = (await ctx.tick().sample(receiver.strobe, receiver.data))[-2:]
            cycle += 1
            if strobe:
                received.append(byte)
                cycles.append(cycle)

    simulate(m, send, receive)
    assert bytes(received) == data
    assert {b - a for a, b in zip(cycles[:29], cycles[1:29])} == {10 * divider + 1}


def test_receiver_tolerates_other_clocks_spikes_and_breaks() -> None:
    """Bits that are 3 % shorter or longer, a spike, and a byte without a stop bit, which is dropped."""
    divider, receiver, received = 32, UartReceiver(32), []

    async def line(ctx, level: int, cycles: int) -> None:
        ctx.set(receiver.line, level)
        await ctx.tick().repeat(cycles)

    async def byte(ctx, value: int, cycles: int, stop: int = 1) -> None:
        for bit in (0, *(value >> i & 1 for i in range(8)), stop):
            await line(ctx, bit, cycles)

    async def send(ctx) -> None:
        await line(ctx, 1, 20)
        for cycles in (31, 32, 33):
            await byte(ctx, 0xA5, cycles)
            await byte(ctx, 0x0F, cycles)
        await line(ctx, 1, 40)
        await line(ctx, 0, 5)
        await line(ctx, 1, 40)
        await byte(ctx, 0xFF, divider, stop=0)
        await line(ctx, 1, 400)
        await byte(ctx, 0x33, divider)
        await line(ctx, 1, 40)

    async def receive(ctx) -> None:
        async for _, _, strobe, value in ctx.tick().sample(receiver.strobe, receiver.data):
            if strobe:
                received.append(value)

    simulate(receiver, send, background=[receive])
    assert received[:6] == [0xA5, 0x0F] * 3
    assert received[-1] == 0x33 and len(received) <= 8  # the break may look like one more byte


def test_rates() -> None:
    assert line_divider(48e6, 3e6) == 16
    assert line_divider(50e6, 1e6) == 50
    with pytest.raises(ValueError, match="nearest rate is 2941176"):
        line_divider(50e6, 3e6)
    with pytest.raises(ValueError, match="3000000 baud"):
        line_divider(10e6, 3e6)
