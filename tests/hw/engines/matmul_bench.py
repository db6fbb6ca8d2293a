"""Model of the matmul engine's instructions, and of everything around the engine."""

import random
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from amaranth.hdl import Value
from amaranth.sim import Simulator

from hw.config import AcceleratorConfig
from hw.control.descriptors import MatmulBody, OperandMode, pack, record_layout, record_words, table_words
from hw.engines.matmul import MatmulEngine
from hw.interfaces import MATMUL_READ_LATENCY, PAD_READ_LATENCY
from quant.numerics import OPERAND_BITS, Operand, code_range, first_stage, reciprocal, second_stage, weight_range


@dataclass
class Instruction:
    """One `MatmulBody` with its parameters."""

    body: dict
    weights: torch.Tensor | None  # [out tile][in block][Ti][To], unless from the state buffer
    records: list[dict]  # one per output channel of all written tiles
    table: list[int] | None = None
    wait: int = 0  # instructions that are done before it is offered


def row_addresses(view: dict, rows: int) -> list[int]:
    addresses, row = [], view["start"]
    for _ in range(rows):
        addresses.append(row)
        row += view["row_stride"]
        if row >= view["limit"]:
            row += view["base"] - view["limit"]
    return addresses


class Memories:
    """Scratchpads [pad][address][pixel][channel], state tiles [tile][Ti][To], and tables [bank]."""

    def __init__(self, config: AcceleratorConfig, words: int, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.config = config
        shape = (4, words, config.pixels, config.in_lanes)
        self.pads = torch.randint(0, 1 << config.act_bits, shape, generator=rng)
        low, high = weight_range(config.factor_bits)
        # column 0 is positive, as sums of ReLU outputs are
        shape = (config.state_tiles, config.in_lanes, config.out_lanes)
        self.state = torch.randint(low, high + 1, shape, generator=rng)
        self.state[:, :, 0] = self.state[:, :, 0].abs()
        self.tables: list[list[int]] = [[], []]

    def execute(self, instruction: Instruction) -> None:
        """The meaning of an instruction, in `quant.numerics`."""
        c, f, mode = self.config, instruction.body, instruction.body["requant"]
        if instruction.table is not None:
            self.tables[mode["table_bank"]] = instruction.table
        acc = self._accumulate(instruction)  # [out tile][word][pixel][To]
        inverse = None
        if f["from_state"]:
            inverse = reciprocal(acc[0, :, :, 0].long(), c.divisor_mantissa_bits)
            acc = acc[1:]
        for s in range(f["out_subblocks"]):
            tile, group = divmod(s, c.out_lanes // c.requant_channels)
            channels = slice(group * c.requant_channels, (group + 1) * c.requant_channels)
            block, lane = divmod(s, c.subblocks)
            lanes = slice(lane * c.requant_channels, (lane + 1) * c.requant_channels)
            records = instruction.records[s * c.requant_channels : (s + 1) * c.requant_channels]
            y = self._requantize(instruction, acc[tile, :, :, channels], records, inverse, block, lanes)
            destination = f["destination"]
            for word, address in enumerate(self._addresses(f, destination, block)):
                for k in range(c.slices if mode["wide"] else 1):
                    codes = (y[word] >> (k * c.act_bits)) & ((1 << c.act_bits) - 1)
                    self.pads[destination["pad"], address + k * f["slice_stride"], :, lanes] = codes

    def _addresses(self, f: dict, view: dict, block: int) -> list[int]:
        groups = range(f["groups_per_row"])
        return [row + block * len(groups) + g for row in row_addresses(view, f["rows"]) for g in groups]

    def _accumulate(self, instruction: Instruction) -> torch.Tensor:
        f, tiles = instruction.body, []
        for o in range(f["out_tiles"]):
            total = 0
            first = o // f["tiles_per_group"] * f["in_blocks"] if f["tiles_per_group"] else 0
            for i in range(f["in_blocks"]):
                x = self.pads[f["source"]["pad"]][self._addresses(f, f["source"], first + i)]
                if f["relu"]:
                    x = (x - f["input_zero"]).clamp(min=0)
                state = f["state_tile"] + o * f["in_blocks"] + i
                weights = self.state[state] if f["from_state"] else instruction.weights[o, i]
                total = total + x @ weights
            tiles.append(total)
        return torch.stack(tiles)

    def _requantize(self, instruction, acc, records, inverse, block, lanes) -> torch.Tensor:
        """Outputs [word][pixel][channel] of accumulators of the same shape."""
        f, mode = instruction.body, instruction.body["requant"]
        r = {name: torch.tensor([record[name] for record in records]) for name in records[0]}
        multiplier, shift, residual = r["multiplier"], r["shift"], None
        if mode["divide"]:
            multiplier, shift = inverse[0][..., None], shift + inverse[1][..., None]
        if mode["operand"] == OperandMode.RESIDUAL:
            residual = self.pads[f["residual"]["pad"]][self._addresses(f, f["residual"], block)][:, :, lanes]
        y = second_stage(
            first_stage(acc, r["bias"], multiplier, shift),
            Operand(int(mode["operand"].value)),
            r["multiplier2"],
            mode["shift2"],
            table=torch.tensor(self.tables[mode["table_bank"]]),
            index_zero=mode["index_zero"],
            residual=residual,
            residual_zero=mode["residual_zero"],
        )
        limits = code_range(OPERAND_BITS, signed=True) if mode["wide"] else (0, mode["limit"])
        return (y + r["zero_point"]).clamp(*limits)


def stream_of(config: AcceleratorConfig, instruction: Instruction) -> list[int]:
    """The words of an instruction's parameter stream."""
    words: list[int] = []

    def block(values: list[int], bits: int, count: int) -> None:
        total = sum((v & ((1 << bits) - 1)) << (i * bits) for i, v in enumerate(values))
        mask = (1 << config.stream_bits) - 1
        words.extend((total >> (w * config.stream_bits)) & mask for w in range(count))

    if instruction.table is not None:
        block(instruction.table, OPERAND_BITS, table_words(config, config.stream_bits))
    f, size = instruction.body, config.out_lanes
    for o in range(f["out_tiles"]):
        written = o - f["from_state"]
        if written >= 0:
            records = instruction.records[written * size : (written + 1) * size]
            packed = [pack(record_layout(), **record) for record in records]
            block(packed, record_layout().size, record_words(size, config.stream_bits))
        if not f["from_state"]:
            for tile in instruction.weights[o]:
                block(tile.flatten().tolist(), config.operand_bits, config.tile_words)
    return words


@dataclass
class Traffic:
    """Probabilities, per cycle, that something around the engine makes it wait."""

    starve: float = 0.0
    refuse: float = 0.0
    withhold: float = 0.0


@dataclass
class Run:
    """What a simulation saw; cycles are counted from 0."""

    accepted: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    streamed: list[int] = field(default_factory=list)  # cycles with a source request
    stalled: list[int] = field(default_factory=list)
    idle_after: bool = False


def packed(x: torch.Tensor, bits: int) -> int:
    return sum((v & ((1 << bits) - 1)) << (i * bits) for i, v in enumerate(x.flatten().tolist()))


class Environment:
    """Scratchpads, state buffer, parameter stream, and instruction queue of an engine."""

    def __init__(self, memories: Memories, instructions: list[Instruction], traffic: Traffic, seed: int) -> None:
        self.memories, self.instructions, self.traffic = memories, instructions, traffic
        self.config = memories.config
        self.rng = random.Random(seed)
        self.run = Run()
        self.stream = [word for i in instructions for word in stream_of(self.config, i)]
        self.dut = MatmulEngine(self.config)
        # words on their way to the engine
        self.ports = {"source": [None] * MATMUL_READ_LATENCY, "residual": [None] * PAD_READ_LATENCY}
        self.position = self.offered = 0
        self.holding = self.offering = False
        self.state = None

    def simulate(self, limit: int = 20000) -> Run:
        """Run all instructions to their end, and some cycles more."""

        async def bench(ctx) -> None:
            ctx.set(self.dut.source.ready, 1)
            ctx.set(self.dut.destination.ready, 1)
            cycle = after = 0
            while after < 30:
                assert cycle < limit, f"hangs: {self.run}, {self.position} of {len(self.stream)} words"
                self._drive(ctx)
                names = (
                    "parameters.ready", "instruction.body.ready", "instruction.done", "status.stall", "state.enable",
                    "state.tile", "state.word", "source.valid", "source.pad", "source.address", "residual.valid",
                    "residual.ready", "residual.pad", "residual.address", "destination.valid", "destination.pad",
                    "destination.address", "destination.data", "destination.mask",
                )  # fmt: skip
                signals = [Value.cast(attrgetter(name)(self.dut)) for name in names]
                _, _, *values = await ctx.tick().sample(*signals)
                self._observe(cycle, dict(zip(names, values)))
                cycle += 1
                after += len(self.run.done) == len(self.instructions)
            self.run.idle_after = not ctx.get(self.dut.status.busy)

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()
        assert self.position == len(self.stream)
        return self.run

    def _drive(self, ctx) -> None:
        dut, traffic, random = self.dut, self.traffic, self.rng.random
        # what was offered once stays until it is taken
        self.holding = self.position < len(self.stream) and (self.holding or random() >= traffic.starve)
        ctx.set(dut.parameters.valid, self.holding)
        ctx.set(dut.parameters.payload, self.stream[self.position] if self.holding else self.rng.getrandbits(32))
        if not self.offering and self.offered < len(self.instructions):
            instruction = self.instructions[self.offered]
            self.offering = instruction.wait <= len(self.run.done) and random() >= traffic.withhold
            if self.offering:
                ctx.set(Value.cast(dut.instruction.body.payload), pack(MatmulBody, **instruction.body))
        ctx.set(dut.instruction.body.valid, self.offering)
        ctx.set(dut.residual.ready, random() >= traffic.refuse)
        for name, pipeline in self.ports.items():
            port, word = getattr(dut, name), pipeline.pop(0)
            ctx.set(port.data_valid, word is not None)
            noise = self.rng.getrandbits(self.config.pad_word_bits)
            ctx.set(Value.cast(port.data), noise if word is None else packed(word, self.config.act_bits))
        ctx.set(dut.state.data, self.rng.getrandbits(32) if self.state is None else self.state)

    def _observe(self, cycle: int, seen: dict[str, int]) -> None:
        run, pads, c = self.run, self.memories.pads, self.config
        if self.holding and seen["parameters.ready"]:
            self.position, self.holding = self.position + 1, False
        if self.offering and seen["instruction.body.ready"]:
            self.offered, self.offering = self.offered + 1, False
            run.accepted.append(cycle)
        for name, log in (
            ("instruction.done", run.done),
            ("status.stall", run.stalled),
            ("source.valid", run.streamed),
        ):
            if seen[name]:
                log.append(cycle)
        if seen["state.enable"]:
            tile = packed(self.memories.state[seen["state.tile"]], c.operand_bits)
            self.state = tile >> (seen["state.word"] * c.stream_bits) & ((1 << c.stream_bits) - 1)
        self.ports["source"].append(
            pads[seen["source.pad"], seen["source.address"]].clone() if seen["source.valid"] else None
        )
        granted = seen["residual.valid"] and seen["residual.ready"]
        self.ports["residual"].append(pads[seen["residual.pad"], seen["residual.address"]].clone() if granted else None)
        if seen["destination.valid"]:
            self._write(seen)

    def _write(self, seen: dict[str, int]) -> None:
        c = self.config
        word = self.memories.pads[seen["destination.pad"], seen["destination.address"]]
        for p in range(c.pixels):
            for lane in range(c.in_lanes):
                if seen["destination.mask"] >> (p * c.write_groups + lane // c.write_group) & 1:
                    code = seen["destination.data"] >> ((p * c.in_lanes + lane) * c.act_bits)
                    word[p, lane] = code & ((1 << c.act_bits) - 1)
