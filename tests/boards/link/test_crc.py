"""SerialCrc against zlib."""

import zlib
from random import Random

from boards.link.crc import BYTE_BITS, SerialCrc
from tests.hw.support import simulate, stream_put


def test_messages():
    dut = SerialCrc()
    rng = Random(1)

    async def bench(ctx):
        for size in (1, 2, 9, 40):
            message = rng.randbytes(size)
            crc = zlib.crc32(message)
            ctx.set(dut.start, 1)
            await stream_put(ctx, dut.i, message[:1])
            ctx.set(dut.start, 0)
            await stream_put(ctx, dut.i, message[1:])
            await ctx.tick().repeat(BYTE_BITS)
            assert ctx.get(dut.crc) == crc and not ctx.get(dut.intact)
            await stream_put(ctx, dut.i, crc.to_bytes(4, "little"))
            await ctx.tick().repeat(BYTE_BITS)
            assert ctx.get(dut.intact)

    simulate(dut, bench)
