"""Linear attention unit against the states of `LinearAttention` and against `AveragePool`, bit for bit, and cycles."""

from dataclasses import dataclass
from random import Random

import pytest
import torch

from hw.config import AcceleratorConfig, Multipliers
from hw.control.descriptors import AttentionBody, pack
from hw.engines.attention import LinearAttentionUnit, StateWriter
from hw.engines.token_reader import SLOTS
from hw.interfaces import PAD_READ_LATENCY
from quant import numerics
from quant.integer_network import AveragePool
from tests.hw.engines.scratchpad_model import ScratchpadModel
from tests.hw.support import simulate

AREA = 512  #: words in each scratchpad for one instruction
CONFIGS = {
    "equal": dict(pixels=3, in_lanes=4, out_lanes=4),
    "narrow_k": dict(pixels=2, in_lanes=2, out_lanes=8, act_bits=4, weight_bits=4, state_bits=4),
    "wide_k": dict(pixels=7, in_lanes=8, out_lanes=2, act_bits=4),
    "one_pixel": dict(pixels=1, in_lanes=4, out_lanes=2, acc_bits=32),
    "short_words": dict(
        pixels=2, in_lanes=8, out_lanes=8, state_lanes=8, stream_bits=64, bus_bits=64, weight_bits=8, state_bits=8
    ),
    "in_logic": dict(pixels=2, in_lanes=8, out_lanes=4, state_lanes=1, logic_engines=True),
    "one_key": dict(pixels=2, in_lanes=8, out_lanes=4, attention_keys=1, multiplier=Multipliers.DSP48E2),
    "plain": dict(pixels=2, in_lanes=4, out_lanes=4, attention_keys=32, multiplier=Multipliers.PLAIN),
    "two_bits": dict(pixels=5, in_lanes=4, out_lanes=4, act_bits=2, state_bits=2, weight_bits=2, acc_bits=16),
}


def configuration(name: str) -> AcceleratorConfig:
    return AcceleratorConfig(requant_channels=2, dw_pixels=1, bus_ports=1, state_tiles=64, **CONFIGS[name])


@dataclass
class Instruction:
    """Field values, and what the instruction must write: states by (tile, element), or words by (pad, address)."""

    fields: dict
    states: dict
    words: dict

    def cycles(self, config: AcceleratorConfig) -> int:
        """Cycles from acceptance to `done`, alone and without refused requests."""
        f, reads = self.fields, 1 if self.fields["pool"] else 2
        steps = 1 if f["pool"] else config.in_lanes // config.key_group
        groups = 0 if f["pool"] else config.in_lanes // config.state_group
        row = [config.pixels] * (f["groups_per_row"] - 1) + [f["last_pixels"]]
        start, drained, written = 3, 0, 0
        for i in range(f["blocks"] if f["pool"] else f["blocks"] ** 2):
            # Words are requested ahead, up to SLOTS groups; then a pixel takes `steps` cycles.
            requested, ends = start, [start] * SLOTS
            for pixels in row * f["rows"]:
                requested = max(requested, ends[-SLOTS]) + reads
                first = max(requested + PAD_READ_LATENCY + 1, ends[-1] + 1, drained + 1)
                ends.append(first + steps * pixels - 1)
            launch = max(ends[-1] + (2 if f["pool"] else 3), written + 1)
            drained = launch + config.in_lanes * (groups + (f["pool"] or i % f["blocks"] == 0))
            written = drained + StateWriter.latency if f["pool"] else 0
            start = launch + 1
        return drained + StateWriter.latency + 1


def random_map(rng: Random, config: AcceleratorConfig, channels: int, rows: int, width: int) -> list:
    return [[[rng.randrange(1 << config.act_bits) for _ in range(width)] for _ in range(rows)] for _ in range(channels)]


def attention(rng: Random, config: AcceleratorConfig, pads: ScratchpadModel, area: int) -> Instruction:
    """State of one head within a wider map, whose rows lie in a ring."""
    lanes = config.in_lanes
    smallest = max(config.out_lanes // lanes, 1)
    n = smallest * rng.randint(1, max(3 // smallest, 1))
    d = n * lanes
    rows, width = rng.randint(1, 3), rng.randint(1, 2 * config.pixels + 1)
    channels = 3 * d + lanes
    codes = random_map(rng, config, channels, rows, width)
    groups = -(-width // config.pixels)
    stride = channels // lanes * groups
    base = area * AREA + rng.randrange(100)
    start = base + stride * rng.randrange(rows)
    view = pads.place(codes, pad=rng.randrange(4), base=base, limit=base + stride * rows, start=start)
    key_block, value_block = rng.sample([i * n for i in range(3)], 2)

    zero = rng.randrange(1 << config.act_bits)
    x = torch.tensor(codes).reshape(channels // lanes, lanes, -1) - zero
    k = x[key_block : key_block + n].reshape(d, -1).clamp(min=0)
    v = x[value_block : value_block + n].reshape(d, -1)
    raw_state, raw_sums = k @ v.t(), k.sum(1)

    def shift(raw: torch.Tensor) -> int:
        """Mostly such that results fill the range of codes, some clamped."""
        fitting = int(raw.abs().max()).bit_length() + 16 - (config.state_bits - 1)
        return rng.choice([0, 31, *[min(max(fitting - rng.randint(0, 2), 0), 31)] * 8])

    fields = dict(
        source=view, rows=rows, groups_per_row=groups, last_pixels=width - (groups - 1) * config.pixels, pool=0,
        blocks=n, key_block=key_block, value_block=value_block, input_zero=zero,
        state_tile=rng.randrange(config.state_tiles - n - n * d // config.out_lanes + 1),
        state_multiplier=rng.randrange(1 << 15, 1 << 16), state_shift=shift(raw_state),
        sum_multiplier=rng.randrange(1 << 15, 1 << 16), sum_shift=shift(raw_sums),
        sum_bias=rng.getrandbits(25), out_zero=rng.getrandbits(8), out_limit=rng.getrandbits(8),
    )  # fmt: skip
    state = numerics.round_shift(raw_state * fields["state_multiplier"], fields["state_shift"])
    sums = numerics.round_shift(raw_sums * fields["sum_multiplier"], fields["sum_shift"])
    low_high = numerics.weight_range(config.state_bits)
    state, sums = state.clamp(*low_high).tolist(), sums.clamp(*low_high).tolist()
    to, tile = config.out_lanes, fields["state_tile"]
    states = {(tile + i // lanes, i % lanes * to): sums[i] for i in range(d)}
    for i in range(d):
        for j in range(d):
            states[tile + n + j // to * n + i // lanes, i % lanes * to + j % to] = state[i][j]
    return Instruction(fields, states, {})


def pooling(rng: Random, config: AcceleratorConfig, pads: ScratchpadModel, area: int) -> Instruction:
    """Pooling of some blocks of a map, into a pixel of words of pad 3."""
    lanes = config.in_lanes
    n, extra = rng.randint(1, 3), rng.randint(0, 2)
    rows, width = rng.randint(1, 3), rng.randint(1, 2 * config.pixels + 1)
    codes = random_map(rng, config, (n + extra) * lanes, rows, width)
    groups = -(-width // config.pixels)
    view = pads.place(codes, pad=rng.randrange(3), base=0, limit=65536, start=area * AREA + rng.randrange(100))
    step, pixel = rng.randint(1, 3), rng.randrange(config.pixels)
    destination = (area + 1) * AREA - 3 * step
    first = rng.randint(0, extra)
    node = AveragePool(
        name="pool", bias=rng.randint(-500, 500), multiplier=rng.randrange(1 << 15, 1 << 16),
        shift=rng.choice([0, 16, 17, 18, 19, 31]), zero_point=rng.randrange(1 << config.act_bits),
        out_bits=rng.randint(2, config.act_bits),
    )  # fmt: skip
    fields = dict(
        source=view, destination=dict(pad=3, start=destination, row_stride=step), rows=rows, groups_per_row=groups,
        last_pixels=width - (groups - 1) * config.pixels, pool=1, pixel=pixel, blocks=n, key_block=first,
        value_block=rng.getrandbits(12), input_zero=0, sum_multiplier=node.multiplier, sum_shift=node.shift,
        sum_bias=node.bias, out_zero=node.zero_point, out_limit=(1 << node.out_bits) - 1,
    )  # fmt: skip
    pooled = node.run(torch.tensor([codes]))[0, first * lanes : (first + n) * lanes, 0, 0].reshape(n, lanes).tolist()
    words = {}
    for i, codes in enumerate(pooled):
        before = pads.words[3][destination + i * step]
        words[3, destination + i * step] = [*before[:pixel], codes, *before[pixel + 1 :]]
    return Instruction(fields, {}, words)


class Bench:
    """Runs instructions; checks results in the cycle of `done`."""

    def __init__(self, config: AcceleratorConfig, rng: Random, stall: float) -> None:
        self.config, self.rng, self.stall = config, rng, stall
        self.pads = ScratchpadModel(config, rng, words=6 * AREA, stall=stall)
        self.states: dict[tuple[int, int], int] = {}
        self.cycles: list[int] = []  #: per instruction, from acceptance to done

    def run(self, instructions: list[Instruction]) -> None:
        dut = LinearAttentionUnit(self.config)
        accepted = []

        async def offer(ctx):
            for instruction in instructions:
                while self.rng.random() < self.stall:
                    await ctx.tick()
                ctx.set(dut.instruction.body.valid, 1)
                ctx.set(
                    dut.instruction.body.payload, AttentionBody.from_bits(pack(AttentionBody, **instruction.fields))
                )
                await ctx.tick().until(dut.instruction.body.ready)
                ctx.set(dut.instruction.body.valid, 0)

        async def watch(ctx):
            cycle, completed, bits = 0, 0, self.config.operand_bits
            while completed < len(instructions):
                state, body = dut.state, dut.instruction.body
                *_, done, busy, taken, valid, tile, element, codes = await ctx.tick().sample(
                    dut.instruction.done, dut.status.busy, body.valid & body.ready,
                    state.valid, state.tile, state.element, state.data,
                )  # fmt: skip
                assert busy == (len(accepted) > completed)
                if done:
                    self.check(instructions[completed])
                    self.cycles.append(cycle - accepted[completed])
                    completed += 1
                if taken:
                    accepted.append(cycle)
                if valid:
                    for i in range(len(codes)):
                        self.states[tile, element + i] = codes[i] - ((codes[i] >> (bits - 1)) << bits)
                cycle += 1

        simulate(
            dut, offer, watch,
            background=[
                lambda ctx: self.pads.serve_reads(ctx, dut.source),
                lambda ctx: self.pads.serve_writes(ctx, dut.destination),
            ],
        )  # fmt: skip

    def check(self, instruction: Instruction) -> None:
        for (tile, element), code in instruction.states.items():
            assert self.states.get((tile, element)) == code, (tile, element)
        for (pad, address), word in instruction.words.items():
            assert self.pads.words[pad][address] == word


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_instructions(name: str, stall: float) -> None:
    config, rng = configuration(name), Random(1)
    bench = Bench(config, rng, stall)
    instructions = []
    for i in range(6):
        make = rng.choice([attention, attention, pooling])
        instructions.append(make(rng, config, bench.pads, i))
    bench.run(instructions)


@pytest.mark.parametrize("name", CONFIGS)
def test_cycles(name: str) -> None:
    config, rng = configuration(name), Random(2)
    for make in (attention, pooling, attention, pooling):
        bench = Bench(config, rng, 0.0)
        instruction = make(rng, config, bench.pads, 0)
        bench.run([instruction])
        assert bench.cycles == [instruction.cycles(config)]
