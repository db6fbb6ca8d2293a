"""ReadPair: what is taken never goes to one pad twice in a cycle."""

from random import Random

from hw.config import CONFIGS
from hw.memory.read_pair import ReadPair
from tests.hw.support import simulate


def test_requests_and_data():
    config, rng = CONFIGS["nano"], Random(1)
    dut = ReadPair(config)

    async def bench(ctx):
        earlier, kept = (False, 0, 0), (False, 0)  # request and data of the first port
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
            assert ready == [1, not (earlier[0] and earlier[1] == requests[1][1])]
            came = [(ctx.get(port.data_valid), ctx.get(port.data[0][0])) for port in dut.i]
            assert came[1] == data[1]
            assert came[0][0] == kept[0] and (not kept[0] or came[0][1] == kept[1])
            kept = data[0]
            expected = [earlier, (requests[1][0] and ready[1], *requests[1][1:])]
            for port, (valid, *where) in zip(dut.o, expected):
                assert ctx.get(port.valid) == valid
                if valid:
                    assert [ctx.get(port.pad), ctx.get(port.address)] == where
            earlier = requests[0]
            await ctx.tick()

    simulate(dut, bench)
