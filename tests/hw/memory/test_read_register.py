"""ReadRegister: requests and data, a cycle later each."""

from random import Random

from hw.config import CONFIGS
from hw.memory.read_register import ReadRegister
from tests.hw.support import simulate


def test_requests_and_data():
    config, rng = CONFIGS["nano"], Random(1)
    dut = ReadRegister(config)

    async def bench(ctx):
        request, came = (False, 0, 0), (False, 0)  # of the cycle before
        for _ in range(300):
            assert ctx.get(dut.i.ready) == 1
            assert ctx.get(dut.o.valid) == request[0]
            if request[0]:
                assert (ctx.get(dut.o.pad), ctx.get(dut.o.address)) == request[1:]
            assert ctx.get(dut.i.data_valid) == came[0]
            if came[0]:
                assert ctx.get(dut.i.data[0][0]) == came[1]
            request = (rng.random() < 0.7, rng.randrange(4), rng.getrandbits(16))
            came = (rng.random() < 0.5, rng.getrandbits(config.act_bits))
            for signal, value in zip((dut.i.valid, dut.i.pad, dut.i.address), request):
                ctx.set(signal, value)
            ctx.set(dut.o.data_valid, came[0])
            ctx.set(dut.o.data[0][0], came[1])
            await ctx.tick()

    simulate(dut, bench)
