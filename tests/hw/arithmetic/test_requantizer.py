"""The requantizer against `quant.integer_network.Requant`: all modes, corner values, random idle cycles, latency."""

import random

import pytest
import torch
from amaranth.sim import Simulator

from hw.arithmetic.requantizer import Requantizer
from hw.config import AcceleratorConfig
from hw.control.descriptors import OperandMode, RequantMode, pack, record_layout, table_words
from quant.integer_network import Requant
from quant.numerics import Operand

PERIOD = 1e-6


def config(**changes) -> AcceleratorConfig:
    return AcceleratorConfig(name="test", in_lanes=4, out_lanes=4, requant_channels=2, dw_pixels=1).replace(**changes)


def corner(rng: random.Random, low: int, high: int) -> int:
    """A random integer whose magnitude is spread over all powers of two, with the limits often."""
    if rng.random() < 0.1:
        return rng.choice([low, high])
    value = rng.getrandbits(rng.randint(0, max(-low, high).bit_length())) * rng.choice([-1, 1])
    return min(max(value, low), high)


class Beat:
    """Random inputs of one beat and their golden outputs."""

    def __init__(
        self, rng: random.Random, c: AcceleratorConfig, pixels: int, channels: int, acc_bits: int, matmul: bool, tables
    ):
        limit = 1 << (acc_bits - 1)
        self.acc = [[corner(rng, -limit, limit - 1) for _ in range(channels)] for _ in range(pixels)]
        self.residual = [[rng.getrandbits(c.act_bits) for _ in range(channels)] for _ in range(pixels)]
        self.operand = rng.choice(list(Operand) if matmul else [Operand.NONE, Operand.TABLE])
        self.divide, self.wide, self.bank = rng.getrandbits(1) & matmul, rng.getrandbits(1) & matmul, rng.getrandbits(1)
        self.index_zero = corner(rng, -(1 << 12), (1 << 12) - 1)
        self.residual_zero = rng.getrandbits(8)
        self.shift2 = rng.choice([0, 31, rng.randint(0, 31)])
        self.out_bits = 16 if self.wide else rng.randint(2, c.act_bits)
        self.reciprocal = [(rng.randint(0, 1 << 15), rng.randint(0, 24)) for _ in range(pixels)]
        shift_limit = 31 - max(e for _, e in self.reciprocal) if self.divide else 31
        self.records = [
            {
                "bias": corner(rng, -(1 << 24), (1 << 24) - 1),
                "multiplier": corner(rng, -(1 << 17), (1 << 17) - 1),
                "shift": rng.choice([0, shift_limit, rng.randint(0, shift_limit), min(shift_limit, 20)]),
                "zero_point": rng.getrandbits(8),
                "multiplier2": corner(rng, 0, (1 << 16) - 1),
            }
            for _ in range(channels)
        ]
        self.expected = self._golden(c, tables).tolist()

    def _golden(self, c: AcceleratorConfig, tables) -> torch.Tensor:
        fields = {name: torch.tensor([r[name] for r in self.records]) for name in self.records[0]}
        requant = Requant(
            **fields,
            operand=self.operand,
            shift2=self.shift2,
            table=torch.tensor(tables[self.bank]),
            index_zero=self.index_zero,
            residual_zero=self.residual_zero,
            out_bits=self.out_bits,
            signed=bool(self.wide),
        )

        def map_of(x: list[list[int]]) -> torch.Tensor:  # [pixel][channel] -> (1, C, 1, W)
            return torch.tensor(x).t()[None, :, None, :]

        r, e = torch.tensor(self.reciprocal).t()
        reciprocal = (r.reshape(1, 1, 1, -1), e.reshape(1, 1, 1, -1)) if self.divide else None
        return requant(map_of(self.acc), map_of(self.residual), reciprocal)[0, :, 0, :].t()

    def drive(self, ctx, dut) -> None:
        mode = dict(
            operand=OperandMode(int(self.operand)), divide=self.divide, wide=self.wide, table_bank=self.bank,
            index_zero=self.index_zero, residual_zero=self.residual_zero, shift2=self.shift2,
            limit=0 if self.wide else (1 << self.out_bits) - 1,
        )  # fmt: skip
        ctx.set(dut.acc, self.acc)
        ctx.set(dut.residual, self.residual)
        ctx.set(dut.mode, RequantMode.from_bits(pack(RequantMode, **mode)))
        ctx.set(dut.records, [record_layout().from_bits(pack(record_layout(), **r)) for r in self.records])
        ctx.set(dut.reciprocal, [{"r": r, "e": e} for r, e in self.reciprocal])


def load_table(ctx, dut, c: AcceleratorConfig, word_bits: int, bank: int, entries: list[int]) -> None:
    bits = sum((e & 0xFFFF) << (16 * i) for i, e in enumerate(entries))
    for word in range(table_words(c, word_bits)):
        ctx.set(dut.table_write.bank, bank)
        ctx.set(dut.table_write.word, word)
        ctx.set(dut.table_write.data, (bits >> (word * word_bits)) & ((1 << word_bits) - 1))
        ctx.set(dut.table_write.valid, 1)
        yield  # one cycle, or more until `ready`


@pytest.mark.parametrize(
    ("pixels", "channels", "word_bits", "acc_bits", "matmul", "changes"),
    [
        (1, 1, 64, None, True, {"table_index_bits": 4}),
        (1, 1, 32, None, True, {"table_index_bits": 6}),
        (3, 2, 256, None, True, {"table_index_bits": 6, "act_bits": 4}),
        (2, 4, 128, 32, True, {"table_index_bits": 10, "act_bits": 8}),
        (1, 2, 2048, 20, False, {"table_index_bits": 4, "act_bits": 2}),
        (1, 1, 512, 16, True, {"table_index_bits": 12, "act_bits": 5}),
        (2, 2, 128, None, False, {"table_index_bits": 12, "act_bits": 8}),
        (1, 2, 128, None, True, {"table_index_bits": 8, "logic_requantizers": True}),
    ],
)
def test_matches_golden(
    pixels: int, channels: int, word_bits: int, acc_bits: int | None, matmul: bool, changes: dict
) -> None:
    rng = random.Random(1)
    c = config(**changes)
    dut = Requantizer(c, pixels=pixels, channels=channels, word_bits=word_bits, acc_bits=acc_bits, matmul=matmul)
    tables = [[rng.randint(-(1 << 15), (1 << 15) - 1) for _ in range(1 << c.table_index_bits)] for _ in range(2)]
    beats = [Beat(rng, c, pixels, channels, acc_bits or c.acc_bits, matmul, tables) for _ in range(600)]
    sent: list[int] = []  # cycle of each beat
    received: list[tuple[int, list[list[int]]]] = []
    cycle = 0

    async def source(ctx) -> None:
        nonlocal cycle
        for bank in (0, 1):
            for _ in load_table(ctx, dut, c, word_bits, bank, tables[bank]):
                await ctx.tick().until(dut.table_write.ready)
        ctx.set(dut.table_write.valid, 0)
        pending = list(beats)
        while len(received) < len(beats):
            if pending and rng.random() < 0.7:
                pending.pop(0).drive(ctx, dut)
                ctx.set(dut.valid, 1)
                sent.append(cycle)
            else:
                ctx.set(dut.valid, 0)
            if ctx.get(dut.out_valid):
                received.append((cycle, [[ctx.get(lane) for lane in row] for row in dut.y]))
            await ctx.tick()
            cycle += 1
            assert cycle < 2000

    sim = Simulator(dut)
    sim.add_clock(PERIOD)
    sim.add_testbench(source)
    sim.run()
    assert [t for t, _ in received] == [t + dut.latency for t in sent]
    for i, (beat, (_, y)) in enumerate(zip(beats, received, strict=True)):
        assert y == beat.expected, f"beat {i}: {beat.operand!r}, {vars(beat)}"
