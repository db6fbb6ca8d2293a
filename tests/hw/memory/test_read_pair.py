"""ReadPair: what is taken comes a cycle later, and is never for one pad twice."""

from random import Random

from hw.config import CONFIGS
from hw.memory.read_pair import ReadPair
from tests.hw.support import simulate


def test_requests_and_data():
    config, rng = CONFIGS["nano"], Random(1)
    dut = ReadPair(config)

    async def bench(ctx):
        for _ in range(300):
            requests = [(rng.random() < 0.7, rng.randrange(4), rng.getrandbits(16)) for _ in range(2)]
            for port, (valid, pad, address) in zip(dut.i, requests):
                ctx.set(port.valid, valid)
                ctx.set(port.pad, pad)
                ctx.set(port.address, address)
            data = [(rng.random() < 0.5, rng.getrandbits(config.act_bits)) for _ in range(2)]
            for port, (valid, code) in zip(dut.o, data):
                ctx.set(port.data_valid, valid)
                ctx.set(port.data[0][0], code)
            ready = [ctx.get(port.ready) for port in dut.i]
            (first, pad, _), (_, other_pad, _) = requests
            assert ready == [1, not (first and pad == other_pad)]
            assert [(ctx.get(port.data_valid), ctx.get(port.data[0][0])) for port in dut.i] == data
            await ctx.tick()
            for port, (valid, *where), taken in zip(dut.o, requests, ready):
                assert ctx.get(port.valid) == (valid and taken)
                if valid and taken:
                    assert [ctx.get(port.pad), ctx.get(port.address)] == where

    simulate(dut, bench)
