"""The depthwise engine against `quant.numerics.depthwise` and `Requant`: row bands in rings, refusals, starvation."""

from dataclasses import dataclass
from math import ceil
from random import Random

import pytest
import torch

from hw.config import AcceleratorConfig
from hw.control.descriptors import DepthwiseBody, OperandMode, pack, record_layout
from hw.engines.depthwise import DepthwiseEngine
from quant import numerics
from quant.integer_network import Requant
from quant.numerics import Operand
from tests.hw.engines.scratchpad_model import ScratchpadModel
from tests.hw.support import simulate, stream_put

SMALL = dict(
    name="test",
    in_lanes=4,
    out_lanes=4,
    requant_channels=2,
    dw_requant_channels=2,
    acc_depth=16,
    bus_bits=64,
    bus_ports=1,
    stream_bits=64,
)


def config(pixels: int, dw_pixels: int, **changes) -> AcceleratorConfig:
    return AcceleratorConfig(**SMALL | dict(pixels=pixels, dw_pixels=dw_pixels, table_index_bits=5) | changes)


def to_words(c: AcceleratorConfig, values: list[int], bits: int) -> list[int]:
    """Stream words of a block of elements."""
    block = sum((v & ((1 << bits) - 1)) << (i * bits) for i, v in enumerate(values))
    words = -(-len(values) * bits // c.bus_bits)
    return [(block >> (i * c.bus_bits)) & ((1 << c.bus_bits) - 1) for i in range(words)]


@dataclass
class Case:
    """One instruction: output rows `band` of a map."""

    height: int
    width: int
    channels: int
    kernel: int = 3
    stride: int = 1
    band: tuple[int, int] = (0, 255)
    ring_slack: int = 0  # rows of the source's ring that are not needed; the ring begins anywhere
    operand: Operand = Operand.NONE
    table_load: bool = False
    table_bank: int = 0


class Instruction:
    """Random data of a case: stored source map, descriptor, parameter stream, golden output."""

    def __init__(self, case: Case, c: AcceleratorConfig, pads: ScratchpadModel, free: list[int], tables, rng: Random):
        self.case, self.c = case, c
        blocks = -(-case.channels // c.in_lanes)
        k, s = case.kernel, case.stride
        out_height, out_width = (case.height - 1) // s + 1, (case.width - 1) // s + 1
        self.rows = range(case.band[0], min(case.band[1], out_height))

        x = torch.tensor([[[rng.getrandbits(c.act_bits) for _ in range(case.width)] for _ in range(case.height)]
                          for _ in range(case.channels)])[None]  # fmt: skip
        limit = numerics.weight_range(c.weight_bits)
        weight = torch.tensor([[[rng.randint(*limit) for _ in range(k)] for _ in range(k)]
                               for _ in range(case.channels)])  # fmt: skip
        pad_codes = torch.tensor([rng.getrandbits(c.act_bits) for _ in range(case.channels)])
        requant = self._requant(tables, rng)
        acc = numerics.depthwise(x, weight, s, pad_codes)
        self.golden = requant(acc)[0, :, self.rows.start : self.rows.stop].tolist()

        first = max(0, self.rows.start * s - k // 2)
        last = min(case.height, (self.rows.stop - 1) * s + k // 2 + 1)
        ring = last - first + case.ring_slack
        groups, source_groups = -(-out_width // c.pixels), -(-case.width // c.pixels)
        row_words = blocks * source_groups
        base = self._allocate(free, 0, ring * row_words)
        view = pads.place(
            x[0, :, first:last].tolist(),
            pad=0, base=base, limit=base + ring * row_words, start=base + rng.randrange(ring) * row_words,
        )  # fmt: skip
        out_ring = len(self.rows) + rng.randrange(3)
        base = self._allocate(free, 1, out_ring * blocks * groups)
        self.target = dict(
            pad=1, base=base, limit=base + out_ring * blocks * groups, row_stride=blocks * groups,
            start=base + rng.randrange(out_ring) * blocks * groups,
        )  # fmt: skip
        self.groups = groups
        self.fields = dict(
            source=view, destination=self.target, rows=len(self.rows), groups_per_row=groups,
            source_groups=source_groups, last_pixels=case.width - (source_groups - 1) * c.pixels, blocks=blocks,
            kernel5=int(k == 5), stride2=int(s == 2), top=first - (self.rows.start * s - k // 2),
            source_rows=case.height - first,
            requant=dict(
                operand=OperandMode(int(case.operand)), table_load=int(case.table_load), table_bank=case.table_bank,
                index_zero=requant.index_zero, shift2=requant.shift2, limit=(1 << requant.out_bits) - 1,
            ),
        )  # fmt: skip
        self.stream = to_words(c, tables[case.table_bank], 16) if case.table_load else []
        for block in range(blocks):
            self.stream += self._block_stream(range(block * c.in_lanes, (block + 1) * c.in_lanes), weight, pad_codes,
                                              requant)  # fmt: skip

    def _allocate(self, free: list[int], pad: int, words: int) -> int:
        free[pad] += words
        return free[pad] - words

    def _requant(self, tables, rng: Random) -> Requant:
        def column(low: int, high: int) -> torch.Tensor:
            return torch.tensor([rng.randint(low, high) for _ in range(self.case.channels)])

        return Requant(
            bias=column(-2000, 2000), multiplier=column(1 << 15, (1 << 16) - 1), shift=column(17, 21),
            zero_point=column(0, 100), multiplier2=column(1, 1 << 10), operand=self.case.operand,
            shift2=12 if self.case.operand else 1, table=torch.tensor(tables[self.case.table_bank]), index_zero=7,
            out_bits=rng.randint(2, self.c.act_bits),
        )  # fmt: skip

    def _block_stream(self, channels: range, weight, pad_codes, requant: Requant) -> list[int]:
        c, k = self.c, self.case.kernel
        layout = record_layout()
        present = [i if i < self.case.channels else None for i in channels]
        columns = {name: getattr(requant, name).tolist() for name in layout.members}
        records = [
            0 if i is None else pack(layout, **{name: column[i] for name, column in columns.items()}) for i in present
        ]
        words = to_words(c, records, layout.size)
        words += to_words(c, [0 if i is None else int(pad_codes[i]) for i in present], 8)
        for ky in range(k):
            for first in range(0, k, 3):
                taps = [
                    0 if i is None or first + t >= k else int(weight[i, ky, first + t])
                    for t in range(3) for i in present
                ]  # fmt: skip
                words += to_words(c, taps, c.dw_weight_bits)
        return words

    def check(self, pads: ScratchpadModel) -> None:
        t, c = self.target, self.c
        for channel, plane in enumerate(self.golden):
            for i, row in enumerate(plane):
                address = t["start"] + i * t["row_stride"]
                address -= (t["limit"] - t["base"]) * (address >= t["limit"])
                for x, code in enumerate(row):
                    word = pads.words[1][address + channel // c.in_lanes * self.groups + x // c.pixels]
                    got = word[x % c.pixels][channel % c.in_lanes]
                    assert got == code, f"{self.case}: channel {channel}, row {i}, pixel {x}: {got}, expected {code}"


def run(c: AcceleratorConfig, cases: list[Case], *, stall: float = 0.0, idle: float = 0.0, seed: int = 1) -> list[int]:
    """Run instructions back to back and check all results. Returns the cycles at which they were done."""
    rng = Random(seed)
    pads = ScratchpadModel(c, rng, words=2048, stall=stall)
    tables = [[rng.randint(-(1 << 15), (1 << 15) - 1) for _ in range(1 << c.table_index_bits)] for _ in range(2)]
    free = [3, 5]
    instructions = [Instruction(case, c, pads, free, tables, rng) for case in cases]
    assert max(free) <= 2048
    dut = DepthwiseEngine(c)
    done: list[int] = []

    async def send(ctx) -> None:
        bodies = [DepthwiseBody.from_bits(pack(DepthwiseBody, **i.fields)) for i in instructions]
        await stream_put(ctx, dut.instruction.body, bodies, rng, idle)

    async def parameters(ctx) -> None:
        words = [word for i in instructions for word in i.stream]
        await stream_put(ctx, dut.parameters, words, rng, idle)

    async def receive(ctx) -> None:
        cycle, checked = 0, 0
        while checked < len(instructions):
            await ctx.tick()
            cycle += 1
            for instruction in instructions[checked : len(done)]:
                instruction.check(pads)
                checked += 1
            if ctx.get(dut.instruction.done):
                done.append(cycle)
                assert ctx.get(dut.status.busy)
        for _ in range(40):
            await ctx.tick()
            assert not ctx.get(dut.destination.valid) and not ctx.get(dut.source.valid)
            assert not ctx.get(dut.status.busy)

    async def reads(ctx) -> None:
        await pads.serve_reads(ctx, dut.source)

    async def writes(ctx) -> None:
        await pads.serve_writes(ctx, dut.destination)

    simulate(dut, send, parameters, receive, background=(reads, writes))
    return done


PASSES = {3: 3, 5: 10}
CASES = [
    Case(4, 4, 6, kernel=3, stride=1, operand=Operand.TABLE, table_load=True),
    Case(9, 8, 4, kernel=3, stride=2, band=(1, 3), ring_slack=2, operand=Operand.TABLE),
    Case(7, 4, 9, kernel=5, stride=1, band=(3, 5), operand=Operand.TABLE, table_load=True, table_bank=1),
    Case(8, 5, 3, kernel=5, stride=2, band=(1, 4), ring_slack=1, operand=Operand.TABLE),
    Case(6, 3, 5, kernel=3, stride=1, band=(5, 6), ring_slack=1, operand=Operand.TABLE, table_load=True),
    Case(1, 1, 9, kernel=5, stride=2),
    Case(4, 6, 4, kernel=3, stride=2, band=(0, 1)),
    Case(9, 2, 5, kernel=3, stride=2),  # rows of one word
    Case(2, 1, 3, kernel=3, stride=2),  # one output word
]


@pytest.mark.parametrize(
    ("pixels", "dw_pixels", "stall", "idle", "changes"),
    [
        (1, 1, 0.0, 0.0, {}),
        (1, 1, 0.5, 0.0, {}),
        (1, 1, 0.2, 0.1, dict(in_lanes=2, requant_channels=1, dw_requant_channels=1, bus_bits=32, stream_bits=32)),
        (
            2,
            1,
            0.0,
            0.5,
            dict(in_lanes=2, requant_channels=1, dw_requant_channels=1, act_bits=4, bus_bits=128, stream_bits=128),
        ),
        (3, 2, 0.0, 0.0, dict(in_lanes=8, requant_channels=2, dw_requant_channels=4, weight_bits=4)),
        (3, 2, 0.3, 0.0, {}),
        (4, 4, 0.4, 0.2, dict(in_lanes=2, act_bits=4, weight_bits=2, bus_bits=256, stream_bits=256)),
        (7, 3, 0.2, 0.2, dict(in_lanes=2)),
        (7, 7, 0.0, 0.0, dict(in_lanes=2, act_bits=3, weight_bits=3)),
    ],
)
def test_matches_golden(pixels: int, dw_pixels: int, stall: float, idle: float, changes: dict) -> None:
    run(config(pixels, dw_pixels, **changes), CASES, stall=stall, idle=idle)


def words(case: Case, c: AcceleratorConfig) -> int:
    """Output words of one channel block."""
    height, width = (case.height - 1) // case.stride + 1, (case.width - 1) // case.stride + 1
    return (min(case.band[1], height) - case.band[0]) * ceil(width / c.pixels)


def stream_words(case: Case, c: AcceleratorConfig) -> int:
    """Parameters of one channel block."""
    return (
        ceil(c.in_lanes * 80 / c.bus_bits)
        + ceil(c.in_lanes * 8 / c.bus_bits)
        + PASSES[case.kernel] * ceil(3 * c.in_lanes * c.dw_weight_bits / c.bus_bits)
    )


@pytest.mark.parametrize(
    ("pixels", "dw_pixels", "changes", "case"),
    [
        (4, 4, {}, Case(8, 8, 12)),
        (4, 4, {}, Case(16, 8, 8, stride=2)),
        (4, 2, {}, Case(8, 8, 4, stride=2)),
        (4, 2, {}, Case(8, 8, 4, kernel=5)),
        (4, 4, {}, Case(4, 4, 8, kernel=5)),
        (4, 4, {}, Case(2, 4, 12)),  # bound by its parameters
        (4, 4, {"dw_requant_channels": 1}, Case(8, 8, 8)),  # bound by the drain
        (1, 1, {}, Case(4, 4, 4, kernel=5, stride=1)),
        (2, 2, {}, Case(1, 2, 4)),  # passes of one word
        (2, 2, {}, Case(2, 4, 4, stride=2)),
        (2, 2, {}, Case(12, 4, 4, stride=2)),  # rows of one word
        (1, 1, {}, Case(3, 4, 4, stride=2)),  # two words
    ],
)
def test_cycles(pixels: int, dw_pixels: int, changes: dict, case: Case) -> None:
    c = config(pixels, dw_pixels, **changes)
    done = run(c, [case] * 4)
    blocks, chunks, passes = ceil(case.channels / c.in_lanes), ceil(c.pixels / c.dw_pixels), PASSES[case.kernel]
    compute = passes * max(words(case, c) * max(chunks, case.stride), 3)
    if case.stride == 2 and case.kernel == 3 and chunks == 1:  # two passes: one reads a row more, for two kernel rows
        rows = (case.height - 1) // 2 + 1
        pair = 2 * (rows + 1) * words(case, c) // rows + 2 * (words(case, c) == 1)
        compute = pair + max(words(case, c) * 2, 3)
    drain = words(case, c) * chunks * c.dw_subblocks
    busy = max(blocks * compute, blocks * drain + 1, blocks * stream_words(case, c) + 3)
    assert [b - a for a, b in zip(done, done[1:])] == [busy] * 3
    if compute > drain:
        latency = blocks * compute + stream_words(case, c) + drain - words(case, c) * chunks + 31
        assert abs(done[0] - latency) <= 5
