import random

import pytest
import torch
from matmul_bench import Environment, Instruction, Memories, Run, Traffic

from hw.arithmetic.accumulators import Accumulators
from hw.arithmetic.requantizer import Requantizer
from hw.config import AcceleratorConfig, Multipliers
from hw.control.descriptors import OperandMode, record_words
from hw.engines.mac_array import mac_format
from hw.engines.matmul_drain import Drain
from hw.interfaces import MATMUL_READ_LATENCY
from quant.numerics import weight_range

WORDS = 1024


def config(**changes) -> AcceleratorConfig:
    fields = dict(
        pixels=2, in_lanes=4, out_lanes=4, dw_pixels=1, requant_channels=2, acc_depth=8, table_index_bits=5,
        bus_bits=64, bus_ports=1, stream_bits=64, divisor_mantissa_bits=4,
    )  # fmt: skip
    return AcceleratorConfig(name="test", **(fields | changes))


class Generator:
    """Random instructions on disjoint regions of the scratchpads: sources in pad 0, residuals in 1, results in 2."""

    def __init__(self, c: AcceleratorConfig, seed: int) -> None:
        self.c, self.rng = c, random.Random(seed)
        self.free = [0, 0, 0, 0]

    def view(self, pad: int, rows: int, groups: int, blocks: int) -> dict:
        """A ring of at least `rows` rows of `blocks` channel blocks at a new place; it begins anywhere in the ring."""
        stride = groups * blocks
        ring = rows + self.rng.choice([0, 0, 1, 2])
        base = self.free[pad]
        self.free[pad] += ring * stride
        assert self.free[pad] <= WORDS
        first = self.rng.randrange(ring) if self.rng.random() < 0.7 else 0
        return {
            "pad": pad, "base": base, "limit": base + ring * stride, "start": base + first * stride,
            "row_stride": stride,
        }  # fmt: skip

    def record(self) -> dict:
        rng = self.rng
        return {
            "bias": rng.randint(-500, 500), "multiplier": rng.randint(-(1 << 16), 1 << 16),
            "shift": rng.randint(14, 20), "zero_point": rng.getrandbits(self.c.act_bits),
            "multiplier2": rng.getrandbits(16),
        }  # fmt: skip

    def instruction(
        self,
        rows: int = 1,
        groups: int = 1,
        in_blocks: int = 1,
        out_tiles: int = 1,
        tiles_per_group: int = 0,
        dropped: int = 0,
        operand: OperandMode = OperandMode.NONE,
        wide: bool = False,
        relu: bool = False,
        bank: int = 0,
        table_load: bool = False,
        state_tile: int | None = None,
        source: dict | None = None,
        wait: int = 0,
    ) -> Instruction:
        c, rng = self.c, self.rng
        attention = state_tile is not None
        written = out_tiles - attention
        subblocks = written * c.out_lanes // c.requant_channels - dropped
        blocks = -(-subblocks * c.requant_channels // c.in_lanes)
        groups_of_tiles = -(-out_tiles // tiles_per_group) if tiles_per_group else 1
        slices = c.slices if wide else 1
        destination = self.view(2, rows, groups, blocks)
        for _ in range(slices - 1):  # the slices of a row follow the whole map
            self.free[2] += destination["limit"] - destination["base"]
        low, high = weight_range(c.weight_bits)
        size = (out_tiles, in_blocks, c.in_lanes, c.out_lanes)
        weights = torch.tensor([rng.randint(low, high) for _ in range(torch.Size(size).numel())]).reshape(size)
        limit = 1 << 15
        table = [rng.randrange(-limit, limit) for _ in range(1 << c.table_index_bits)] if table_load else None
        body = {
            "source": source or self.view(0, rows, groups, in_blocks * groups_of_tiles),
            "destination": destination,
            "residual": self.view(1, rows, groups, blocks) if operand == OperandMode.RESIDUAL else destination,
            "rows": rows, "groups_per_row": groups, "in_blocks": in_blocks, "out_tiles": out_tiles,
            "tiles_per_group": tiles_per_group, "out_subblocks": subblocks, "relu": int(relu),
            "input_zero": rng.getrandbits(c.act_bits), "from_state": int(attention), "state_tile": state_tile or 0,
            "slice_stride": destination["limit"] - destination["base"],
            "requant": {
                "operand": operand, "divide": int(attention), "wide": int(wide), "table_load": int(table_load),
                "table_bank": bank, "index_zero": rng.randint(-8, 1 << c.table_index_bits),
                "residual_zero": rng.getrandbits(c.act_bits), "shift2": rng.randint(10, 18),
                "limit": (1 << rng.randint(2, c.act_bits)) - 1,
            },
        }  # fmt: skip
        if operand in (OperandMode.NONE, OperandMode.RESIDUAL):
            body["requant"]["shift2"] = 0 if operand == OperandMode.NONE else 8
        records = [self.record() for _ in range(written * c.out_lanes)]
        for record in records:
            if operand == OperandMode.TABLE:
                record["shift"] = 20
            elif attention:  # the divisor's exponent is added
                record["shift"] = rng.randint(6, 12)
        return Instruction(body, None if attention else weights, records, table, wait)


def check(c: AcceleratorConfig, instructions: list[Instruction], traffic: Traffic, seed: int = 1) -> Run:
    """Run on the engine and on the model; everything that lies in the scratchpads in the end must agree."""
    memories, expected = Memories(c, WORDS, seed), Memories(c, WORDS, seed)
    for instruction in instructions:
        expected.execute(instruction)
    run = Environment(memories, instructions, traffic, seed).simulate()
    assert len(run.done) == len(instructions) and run.idle_after
    wrong = (memories.pads != expected.pads).nonzero().tolist()
    assert not wrong, f"{len(wrong)} wrong codes, the first at (pad, address, pixel, channel) {wrong[0]}"
    return run


FREE, STARVED, REFUSED = Traffic(), Traffic(starve=0.6, withhold=0.3), Traffic(refuse=0.7, starve=0.1)
CONFIGS = {
    "square": config(),
    "one pixel": config(pixels=1, in_lanes=2, out_lanes=8, requant_channels=1),
    "narrow bus": config(pixels=1, in_lanes=2, out_lanes=4, requant_channels=1, bus_bits=32, stream_bits=32),
    "narrow": config(pixels=3, in_lanes=8, out_lanes=4, requant_channels=4, act_bits=4, weight_bits=4, state_bits=4),
    "mixed": config(act_bits=4, stream_bits=128, requant_channels=4, divisor_mantissa_bits=0),
    "six bits": config(act_bits=6, weight_bits=3, state_bits=5, stream_bits=256, in_lanes=8, out_lanes=8),
    "blocks": config(in_lanes=8, out_lanes=8, requant_channels=4, multiplier=Multipliers.DSP48E2),
    "blocks of four products": config(
        pixels=3, in_lanes=16, act_bits=4, weight_bits=4, state_bits=4, stream_bits=512, multiplier=Multipliers.DSP48E2
    ),
}


@pytest.mark.parametrize(
    ("name", "traffic"),
    [
        ("square", FREE),
        ("square", REFUSED),
        ("one pixel", STARVED),
        ("narrow bus", REFUSED),
        ("narrow", FREE),
        ("mixed", REFUSED),
        ("six bits", STARVED),
        ("blocks", FREE),
        ("blocks of four products", REFUSED),
    ],
)
def test_all_kinds_back_to_back(name, traffic):
    c = CONFIGS[name]
    g = Generator(c, len(name))
    last = c.out_lanes // c.requant_channels - 1
    instructions = [
        g.instruction(rows=2, groups=3, in_blocks=2, out_tiles=2),
        g.instruction(in_blocks=3, out_tiles=3, dropped=last),
        g.instruction(rows=4, groups=2, operand=OperandMode.TABLE, bank=0, table_load=True),
        g.instruction(rows=2, groups=2, out_tiles=4, tiles_per_group=2, operand=OperandMode.TABLE, bank=0),
        g.instruction(groups=8, relu=True, operand=OperandMode.TABLE, bank=1, table_load=True),
        g.instruction(rows=3, groups=2, operand=OperandMode.TABLE, bank=0, table_load=True),
        g.instruction(rows=3, groups=2, out_tiles=2, in_blocks=2, operand=OperandMode.RESIDUAL),
        g.instruction(rows=2, groups=2, out_tiles=3, in_blocks=2, state_tile=1, relu=True, operand=OperandMode.STAGE),
        g.instruction(rows=1, groups=5, out_tiles=2, in_blocks=1, state_tile=9, relu=True, operand=OperandMode.STAGE),
        g.instruction(in_blocks=2, out_tiles=2, wide=True),
        g.instruction(groups=4, in_blocks=2, out_tiles=1, wide=True, dropped=last),
        g.instruction(rows=2, groups=1, out_tiles=2, tiles_per_group=1),
    ]
    check(c, instructions, traffic)


@pytest.mark.parametrize("seed", range(4))
def test_random_sequences(seed):
    rng = random.Random(seed)
    c = rng.choice(list(CONFIGS.values()))
    g = Generator(c, seed)
    loaded = set()
    instructions = []
    for _ in range(8):
        groups = rng.randint(1, 4)
        shape = {"rows": rng.randint(1, c.acc_depth // groups), "groups": groups, "in_blocks": rng.randint(1, 3)}
        operand = rng.choice(list(OperandMode))
        extra = {"dropped": rng.randrange(c.out_lanes // c.requant_channels), "relu": rng.random() < 0.5}
        if operand == OperandMode.TABLE:
            extra["bank"] = bank = rng.getrandbits(1)
            extra["table_load"] = bank not in loaded or rng.random() < 0.5
            loaded.add(bank)
        if operand == OperandMode.STAGE and rng.random() < 0.7:
            tiles = rng.randint(2, 3)
            extra |= {"state_tile": rng.randrange(c.state_tiles - tiles * shape["in_blocks"] + 1), "relu": True}
        else:
            tiles = rng.randint(1, 4)
            extra |= {"tiles_per_group": rng.randint(0, 3), "wide": rng.random() < 0.2}
        instructions.append(g.instruction(out_tiles=tiles, operand=operand, **shape, **extra))
    check(c, instructions, Traffic(*(rng.choice([0, 0.3, 0.8]) for _ in range(3))), seed)


def test_a_result_is_visible_when_done():
    c = CONFIGS["square"]
    g = Generator(c, 5)
    instructions = [g.instruction(rows=2, groups=2, out_tiles=2)]
    for n in range(1, 4):
        source = instructions[-1].body["destination"]
        instructions.append(
            g.instruction(rows=2, groups=2, in_blocks=2, out_tiles=2, source=source, wait=n, operand=OperandMode.NONE)
        )
    check(c, instructions, FREE)


@pytest.mark.parametrize("groups", [1, 3])
def test_numerators_wait_for_the_reciprocals(groups):
    c = config(stream_bits=2048)
    g = Generator(c, groups)
    attention = dict(groups=groups, out_tiles=3, relu=True, operand=OperandMode.STAGE)
    check(c, [g.instruction(state_tile=tile, **attention) for tile in (0, 5, 11)], FREE)


def predict(c: AcceleratorConfig, instructions: list[Instruction]) -> tuple[list[int], list[int]]:
    """Cycles in which words are requested, and in which instructions are done, if only the engine makes them wait.

    For instructions without tables, residuals, and states.
    """
    record, tile, subblocks = record_words(c.out_lanes, c.stream_bits), c.tile_words, c.out_lanes // c.requant_channels
    streamed, done = [], []
    accepted = active = loaded = taken = free = drained = refilled = 0
    bank_free = [0, 0]  # of the tiles before
    room = [0, 0, 0]  # for records: those of three tiles are held
    for instruction in instructions:
        f = instruction.body
        words, left = f["rows"] * f["groups_per_row"], f["out_subblocks"]
        beat = c.slices if f["requant"]["wide"] else 1
        accepted = max(loaded, active)  # the loader and the preparation are free again
        loaded = accepted + 2
        active = max(accepted + 4, free)
        for _ in range(f["out_tiles"]):
            loaded = max(loaded, room[0]) + record
            refilled = max(loaded + 1, refilled + record)
            for block in range(f["in_blocks"]):
                loaded = max(loaded, taken) + tile
                start = max(loaded, active, free, taken + Accumulators.MIN_REVISIT if streamed else 0)
                if block == f["in_blocks"] - 1:
                    start = max(start, bank_free[0])
                taken, free = start, start + words
                streamed += range(start, free)
            visible = free - 2 + MATMUL_READ_LATENCY + mac_format(c).latency + Accumulators.OUTPUT_LATENCY
            groups = min(subblocks, left)
            left -= groups
            first = max(visible, drained, refilled)
            last_group = first + (groups - 1) * max(words * beat, 2)
            last_beat = last_group + (words - 1) * beat
            # the last records are taken, or dropped with the last beat, one cycle later
            refilled = (last_group if groups == subblocks else last_beat) + 2
            room = [*room[1:], refilled + 1]
            drained = last_beat + beat
            bank_free = [bank_free[1], last_beat + 1]
        free, drained = free + 1, last_beat + max(beat, 2)  # the next task is taken in between
        done.append(last_beat + Drain.LATENCY + Requantizer.latency + beat)
    return streamed, done


SHAPES = {
    "front end": [dict(rows=2, groups=4, in_blocks=4, out_tiles=3), dict(groups=7, in_blocks=5, out_tiles=2)],
    "drain": [dict(rows=2, groups=4, out_tiles=4), dict(rows=8, out_tiles=3, dropped=1), dict(groups=8)],
    "tiles": [dict(in_blocks=3, out_tiles=4), dict(groups=2, in_blocks=2, out_tiles=2), dict(groups=3, in_blocks=4)],
    "wide": [dict(in_blocks=4, out_tiles=3, wide=True), dict(groups=4, in_blocks=4, out_tiles=2)],
    "one": [dict(rows=2, groups=3, in_blocks=2)],
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("stream_bits", [64, 2048])
def test_cycles(name, stream_bits):
    c = config(in_lanes=8, out_lanes=8, requant_channels=4, stream_bits=stream_bits)
    g = Generator(c, 3)
    instructions = [g.instruction(**shape) for shape in SHAPES[name]]
    run = check(c, instructions, FREE)
    streamed, done = predict(c, instructions)
    assert run.streamed == streamed
    assert run.done == done
