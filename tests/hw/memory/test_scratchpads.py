"""Scratchpads against a model of priorities, masks, visibility, and latency, under random requests on all ports."""

from collections import deque
from random import Random

import pytest

from hw.config import PADS, AcceleratorConfig
from hw.interfaces import PAD_READ_LATENCY
from hw.memory.scratchpads import Scratchpads
from tests.hw.support import simulate

CONFIGS = [
    AcceleratorConfig(pixels=1, in_lanes=4, out_lanes=4, dw_pixels=1, requant_channels=4, pad_words=(16, 17, 33, 20)),
    AcceleratorConfig(
        pixels=3, in_lanes=8, out_lanes=2, dw_pixels=1, requant_channels=2, act_bits=4, pad_words=(16, 16, 40, 21)
    ),
]


def masked(config: AcceleratorConfig, old: int, new: int, mask: int) -> int:
    width = config.write_group * config.act_bits
    for lane in range(config.pixels * config.write_groups):
        if mask >> lane & 1:
            field = ((1 << width) - 1) << (lane * width)
            old = old & ~field | new & field
    return old


def winners(requests: list[dict | None]) -> set[int]:
    """Ports that are granted: the first of each pad."""
    first = {}
    for index, request in enumerate(requests):
        if request is not None:
            first.setdefault(request["pad"], index)
    return set(first.values())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("readers, writers", [(1, 1), (3, 2)])
def test_random_requests(config, readers, writers):
    rng = Random(1)
    dut = Scratchpads(config, readers=readers, writers=writers)
    model = [[0] * depth for depth in config.pad_words]
    lanes = config.pixels * config.write_groups

    def random_request() -> dict | None:
        if rng.random() < 0.3:
            return None
        pad = rng.randrange(PADS)
        beyond = rng.random() < 0.1
        address = config.pad_words[pad] + rng.randrange(300) if beyond else rng.randrange(config.pad_words[pad])
        return {"pad": pad, "address": address}

    async def bench(ctx):
        reads, writes = [None] * readers, [None] * writers
        due = [deque([None] * PAD_READ_LATENCY) for _ in range(readers)]
        for _ in range(700):
            for index, port in enumerate(dut.reads):
                reads[index] = reads[index] or random_request()
                ctx.set(port.valid, reads[index] is not None)
                for name, value in (reads[index] or random_request() or {}).items():
                    ctx.set(getattr(port, name), value)
            for index, port in enumerate(dut.writes):
                if writes[index] is None and (request := random_request()):
                    writes[index] = request | {
                        "data": rng.getrandbits(config.pad_word_bits),
                        "mask": rng.choice([rng.getrandbits(lanes), (1 << lanes) - 1]),
                    }
                ctx.set(port.valid, writes[index] is not None)
                if writes[index]:
                    ctx.set(port.pad, writes[index]["pad"])
                    ctx.set(port.address, writes[index]["address"])
                    ctx.set(port.data.as_value(), writes[index]["data"])
                    ctx.set(port.mask.as_value(), writes[index]["mask"])
            granted_reads, granted_writes = winners(reads), winners(writes)
            for index, port in enumerate(dut.reads):
                assert reads[index] is None or ctx.get(port.ready) == (index in granted_reads)
                expected = due[index].popleft()
                assert ctx.get(port.data_valid) == (expected is not None)
                if expected not in (None, "anything"):
                    assert ctx.get(port.data.as_value()) == expected
                if index in granted_reads:
                    pad, address = reads[index]["pad"], reads[index]["address"]
                    clash = any((writes[w]["pad"], writes[w]["address"]) == (pad, address) for w in granted_writes)
                    known = address < len(model[pad]) and not clash
                    due[index].append(model[pad][address] if known else "anything")
                    reads[index] = None
                else:
                    due[index].append(None)
            for index, port in enumerate(dut.writes):
                assert writes[index] is None or ctx.get(port.ready) == (index in granted_writes)
                if index in granted_writes:
                    memory, address = model[writes[index]["pad"]], writes[index]["address"]
                    if address < len(memory):
                        data, mask = writes[index]["data"], writes[index]["mask"]
                        memory[address] = masked(config, memory[address], data, mask)
                    writes[index] = None
            await ctx.tick()

    simulate(dut, bench)
