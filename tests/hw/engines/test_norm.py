"""LayerNorm engine against `quant.integer_network.LayerNorm`, bit for bit, its cycles, and the definition itself."""

from copy import deepcopy
from fractions import Fraction
from math import isqrt
from random import Random

import pytest
import torch

from hw.arithmetic.requantizer import ROW_BITS, Requantizer
from hw.config import AcceleratorConfig
from hw.control.descriptors import NormBody, OperandMode, pack, record_layout, record_words, table_words
from hw.engines.norm import GROUPS_AHEAD, MAX_CHANNELS, NormEngine, ReciprocalStd, VectorUnit
from quant import numerics
from quant.integer_network import LayerNorm, Requant
from quant.numerics import Operand
from tests.hw.engines.scratchpad_model import ScratchpadModel
from tests.hw.support import simulate, stream_put

CONFIGS = {
    "small": dict(pixels=2, in_lanes=4, out_lanes=4, requant_channels=2, norm_channels=2),
    "one_channel": dict(
        pixels=3, in_lanes=4, out_lanes=2, requant_channels=1, norm_channels=1, act_bits=4, bus_bits=128
    ),
    "one_subblock": dict(pixels=1, in_lanes=8, out_lanes=8, requant_channels=8, norm_channels=8, act_bits=8),
    "narrow_bus": dict(
        pixels=1, in_lanes=2, out_lanes=4, requant_channels=1, norm_channels=1, bus_bits=32, stream_bits=32
    ),
    "two_bits": dict(
        pixels=7,
        in_lanes=8,
        out_lanes=8,
        requant_channels=2,
        norm_channels=4,
        act_bits=2,
        bus_bits=256,
        stream_bits=256,
    ),
}


GROUPS = 2  #: words of pixels side by side in the maps that vectors are taken from


def configuration(name: str) -> AcceleratorConfig:
    fields = dict(dw_pixels=1, bus_ports=1, table_index_bits=5, bus_bits=64, stream_bits=128) | CONFIGS[name]
    return AcceleratorConfig(**fields)


class Instruction:
    """A random LayerNorm of a vector in pad words from `area` on: fields, stream, and expected codes."""

    def __init__(
        self, rng: Random, config: AcceleratorConfig, pads: ScratchpadModel, area: int, channels: int, bank: int
    ) -> None:
        self.channels, self.config, self.area = channels, config, area
        top = (1 << config.act_bits) - 1
        spread = rng.choice([0, 1, top])
        x = [min(rng.randint(0, spread) + rng.choice([0, rng.randint(0, top)]), top) for _ in range(channels)]
        self.pad, self.pixel = rng.randrange(4), rng.randrange(config.pixels)
        self.group = rng.randrange(GROUPS)
        codes = [[[rng.randint(0, top) for _ in range(GROUPS * config.pixels)]] for _ in x]
        for channel, code in enumerate(x):
            codes[channel][0][self.group * config.pixels + self.pixel] = code
        view = pads.place(codes, pad=self.pad, base=0, limit=65536, start=area)
        view |= dict(start=area + self.group, row_stride=GROUPS)
        epsilon = rng.choice([1, (1 << 40) - 1, rng.getrandbits(rng.randint(1, 40)) + 1]) & ((1 << 40) - 1)
        operand = rng.choice([Operand.NONE, Operand.TABLE])
        table = [rng.randrange(-(1 << 15), 1 << 15) for _ in range(1 << config.table_index_bits)]
        records = [
            dict(
                bias=rng.randint(-4096, 4096), multiplier=rng.choice([-1, 1]) * rng.randrange(1 << 15, 1 << 16),
                shift=rng.randint(16, 20), zero_point=rng.randint(0, top), multiplier2=rng.getrandbits(16),
            )
            for _ in range(channels)
        ]  # fmt: skip
        out_bits = rng.randint(2, config.act_bits)
        mode = dict(
            operand=OperandMode(int(operand)), table_load=operand == Operand.TABLE, table_bank=bank,
            index_zero=rng.randint(-10, 40), shift2=rng.randint(8, 20) if operand else rng.randint(0, 12),
            limit=(1 << out_bits) - 1,
        )  # fmt: skip
        columns = {name: torch.tensor([r[name] for r in records]) for name in records[0]}
        requant = Requant(
            **columns, operand=operand, shift2=mode["shift2"], table=torch.tensor(table),
            index_zero=mode["index_zero"], out_bits=out_bits,
        )  # fmt: skip
        node = LayerNorm(name="norm", epsilon=epsilon, requant=requant)
        self.expected = node.run(torch.tensor(x).reshape(1, -1, 1, 1)).flatten().tolist()

        self.stream = []
        if mode["table_load"]:
            self._append(sum((entry & 0xFFFF) << (16 * i) for i, entry in enumerate(table)), self.table_words)
        for first in range(0, channels, config.norm_group):
            bits = [pack(record_layout(), **r) for r in records[first : first + config.norm_group]]
            self._append(sum(b << (record_layout().size * i) for i, b in enumerate(bits)), self.group_words)
        self.table = mode["table_load"]
        self.before = deepcopy(pads.words[self.pad ^ 1])
        self.fields = dict(
            source=view, destination=view | dict(pad=self.pad ^ 1), channels=channels, pixel=self.pixel,
            epsilon=epsilon, requant=mode, stream_words=len(self.stream),
        )  # fmt: skip

    @property
    def table_words(self) -> int:
        return table_words(self.config, self.config.bus_bits)

    @property
    def group_words(self) -> int:
        return record_words(self.config.norm_group, self.config.bus_bits)

    def _append(self, bits: int, words: int) -> None:
        width = self.config.bus_bits
        self.stream += [bits >> (i * width) & ((1 << width) - 1) for i in range(words)]

    def check(self, pads: ScratchpadModel) -> None:
        """The pixel has the codes, and the others of its words what was there before."""
        lanes = self.config.in_lanes
        for channel, code in enumerate(self.expected):
            address = self.area + channel // lanes * GROUPS + self.group
            word, before = pads.words[self.pad ^ 1][address], self.before[address]
            for p in range(self.config.pixels):
                expected = code if p == self.pixel else before[p][channel % lanes]
                assert word[p][channel % lanes] == expected, (channel, p)

    def cycles(self) -> int:
        """Cycles from acceptance to `done` if nothing is refused and the stream brings a word per cycle."""
        config = self.config
        groups = -(-self.channels // config.norm_group)
        records = 2 + self.group_words  # when the first are complete
        if self.table:
            table_bits = 16 << config.table_index_bits
            records += self.table_words * max(min(config.bus_bits, table_bits) // ROW_BITS, 1)
        take = groups + 9 + ReciprocalStd.latency(config)
        written = [take - 1] * GROUPS_AHEAD
        for _ in range(groups):
            take = max(take, written[-GROUPS_AHEAD]) + 1
            go = max(take + VectorUnit.latency + 1, records)
            records = go + self.group_words
            written.append(go + Requantizer.latency + 2)
        return written[-1] + 1


def run(config: AcceleratorConfig, rng: Random, pads: ScratchpadModel, stall: float, instructions: list) -> list[int]:
    dut = NormEngine(config)
    accepted, cycles = [], []

    async def offer(ctx):
        body = dut.instruction.body
        await stream_put(ctx, body, [NormBody.from_bits(pack(NormBody, **i.fields)) for i in instructions], rng, stall)

    async def feed(ctx):
        await stream_put(ctx, dut.parameters, [w for i in instructions for w in i.stream], rng, stall)

    async def watch(ctx):
        cycle, body = 0, dut.instruction.body
        while len(cycles) < len(instructions):
            *_, done, busy, taken = await ctx.tick().sample(
                dut.instruction.done, dut.status.busy, body.valid & body.ready
            )
            assert busy == (len(accepted) > len(cycles))
            if done:
                instructions[len(cycles)].check(pads)
                cycles.append(cycle - accepted[len(cycles)])
            if taken:
                accepted.append(cycle)
            cycle += 1

    simulate(
        dut, offer, feed, watch,
        background=[lambda ctx: pads.serve_reads(ctx, dut.source), lambda ctx: pads.serve_writes(ctx, dut.destination)],
    )  # fmt: skip
    return cycles


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_instructions(name: str, stall: float) -> None:
    config, rng = configuration(name), Random(1)
    pads = ScratchpadModel(config, rng, stall=stall)
    sizes = [1, config.norm_group + 1, 2 * config.in_lanes - 1, 37, config.in_lanes]
    instructions = [Instruction(rng, config, pads, 100 * i, n, i % 2) for i, n in enumerate(sizes)]
    cycles = run(config, rng, pads, stall, instructions)
    if not stall:
        assert cycles == [i.cycles() for i in instructions]


def definition(x: list[int], epsilon: int) -> list[int]:
    """`numerics.normalise` in Python's integers."""
    n, sum1 = len(x), sum(x)
    variance = n * sum(v * v for v in x) - sum1 * sum1 + epsilon
    exponent = variance.bit_length() - 1
    r = numerics.rsqrt_table()[(exponent & 1) << 7 | (variance << 7 >> exponent) & 127]
    shift = 3 + (exponent >> 1)
    return [((n * v - sum1) * r + (1 << (shift - 1))) >> shift for v in x]


@pytest.mark.parametrize("n", [1, 2, 100, 2560, MAX_CHANNELS])
def test_definition_fits_its_widths(n: int) -> None:
    rng = Random(n)
    lone = [255] + [0] * (n - 1)
    for x in ([0] * n, [255] * n, lone, [255, 0] * (n // 2) + [0] * (n % 2), [rng.randrange(256) for _ in range(n)]):
        for epsilon in (1, rng.getrandbits(20) + 1, (1 << 40) - 1):
            y = numerics.normalise(torch.tensor([x]), epsilon)[0].tolist()
            assert y == definition(x, epsilon)
            assert n * sum(v * v for v in x) - sum(x) ** 2 + epsilon < 1 << 41
            assert all(-(1 << 19) <= v < 1 << 19 for v in y)


def test_definition_approximates_layer_norm() -> None:
    rng = Random(0)
    for _ in range(50):
        x = [rng.randrange(rng.choice([4, 256])) for _ in range(rng.randint(2, 300))]
        epsilon = rng.getrandbits(20) + 1
        n, sum1 = len(x), sum(x)
        std = Fraction(isqrt((n * sum(v * v for v in x) - sum1 * sum1 + epsilon) << 40), 1 << 20)
        for y, v in zip(numerics.normalise(torch.tensor([x]), epsilon)[0].tolist(), x, strict=True):
            exact = (n * v - sum1) / std
            # Half a table cell is 2**-8 of the mantissa and 2**-9 of its root.
            assert abs(Fraction(y, 1 << 12) - exact) <= abs(exact) / 400 + Fraction(1, 1 << 12)


@pytest.mark.parametrize("act_bits", [2, 8])
def test_reciprocal_std(act_bits: int) -> None:
    config, rng, top = AcceleratorConfig(act_bits=act_bits), Random(3), (1 << act_bits) - 1
    dut = ReciprocalStd(config)

    async def bench(ctx):
        for n in (1, 2, 99, MAX_CHANNELS):
            for x in (
                [0] * n,
                [top] * n,
                [top, 0] * (n // 2) + [top] * (n % 2),
                [rng.randint(0, top) for _ in range(n)],
            ):
                epsilon = rng.choice([1, (1 << 40) - 1, rng.getrandbits(rng.randrange(40)) + 1])
                for port, value in (
                    (dut.channels, n), (dut.sum1, sum(x)), (dut.sum2, sum(v * v for v in x)), (dut.epsilon, epsilon)
                ):  # fmt: skip
                    ctx.set(port, value)
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                for _ in range(ReciprocalStd.latency(config) - 1):
                    assert not ctx.get(dut.done)
                    await ctx.tick()
                assert ctx.get(dut.done)
                variance = n * sum(v * v for v in x) - sum(x) ** 2 + epsilon
                exponent = variance.bit_length() - 1
                index = (exponent & 1) << 7 | (variance << 7 >> exponent) & 127
                assert ctx.get(dut.shift) == 3 + exponent // 2
                await ctx.tick()
                assert ctx.get(dut.r) == numerics.rsqrt_table()[index]

    simulate(dut, bench)
