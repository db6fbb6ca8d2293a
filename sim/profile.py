"""Where the time of a run goes: every cycle of the MAC array is put down to one cause.

Cycles in which the array takes a word are useful or padding; they are counted in products (`macs` of them per cycle),
so that a word of which half the channels exist counts half. All other cycles have the cause that kept the next word
away.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from compiler.batch import Batch
from compiler.program import Descriptor, Program, descriptors
from compiler.shapes import infer_shapes
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine
from hw.engines.depthwise_parameters import PASSES_3X3, PASSES_5X5
from hw.engines.tile_loader import Phase
from quant.integer_network import IntegerNetwork
from sim.activity import Activity
from sim.timeline import layer_times, macs_per_cycle

__all__ = ["CAUSES", "Cause", "EngineUse", "LayerProfile", "RunProfile", "map_widths", "profile_run"]


class Cause(StrEnum):
    """What a cycle of the MAC array goes to; waits carry the name of what is waited for."""

    USEFUL = "useful products"
    PIXELS = "padding pixels"
    CHANNELS = "padding channels"
    WEIGHTS = "weight tiles"  #: the next tile is being written into the array, or its pass is too short to begin
    MEMORY = "memory"  #: weights or parameters have not come yet
    REQUANTIZER = "requantizer"  #: both output banks are full
    PORTS = "scratchpad ports"  #: the requantizer waits for residual words that are refused
    ISSUE = "issue"  #: the next instruction may begin, but is not yet prepared
    PROGRAM = "program"  #: the next instruction is not in the queue yet
    MATMUL = "matmul"  #: the next instruction waits for this engine, and so on
    DEPTHWISE = "depthwise"
    ATTENTION = "attention"
    NORM = "norm"
    LOAD = "load"
    STORE = "store"
    START = "start"  #: before the first word: program fetch, first image rows
    TAIL = "tail"  #: after the last word: last results, scores


CAUSES = tuple(Cause)
WORKING = (Cause.USEFUL, Cause.PIXELS, Cause.CHANNELS)
_CODE = {cause: code for code, cause in enumerate(CAUSES)}


@dataclass(frozen=True)
class EngineUse:
    """What an engine did in a run.

    `gaps`: cycles that its multipliers idled before each instruction but the first for no other reason than its issue
    (MAC array); or between two instructions of which the second had been taken by then (depthwise engine).
    """

    engine: str
    instructions: int
    busy: int  #: cycles with an instruction in progress
    stalled: int  #: of these, waiting
    running: int | None  #: from the first operands of each instruction to its last ones; None: not recorded
    macs: int  #: useful ones
    utilisation: float  #: useful multiply-accumulates over those that its multipliers could have done while busy
    running_utilisation: float | None  #: the same, while running
    occupancy: float  #: cycles in which its multipliers worked, over busy cycles
    gaps: tuple[int, ...]


@dataclass(frozen=True)
class LayerProfile:
    """One node; `cycles` are those of the MAC array by cause, if its instructions run there, with waits before them."""

    node: str
    engines: tuple[str, ...]
    macs: int
    start: int
    end: int
    predicted_end: int
    engine_cycles: int  #: that its instructions held their engines
    predicted_engine_cycles: int
    cycles: dict[Cause, float]
    utilisation: float  #: useful multiply-accumulates over those that its engines could have done in `engine_cycles`
    bound: str  #: what took most of the time

    @property
    def array_cycles(self) -> float:
        """Cycles of the MAC array, waits included."""
        return sum(self.cycles.values())


@dataclass(frozen=True)
class RunProfile:
    """The accounts of one run.

    `products[instruction, cause]` counts products that the MAC array did or could have done: `macs` per cycle. Its sum
    is exactly `cycles * macs`.
    """

    cycles: int
    macs: int
    products: np.ndarray
    causes: np.ndarray  #: code of `CAUSES` of each state of the activity; working states are `USEFUL`
    engines: tuple[EngineUse, ...]
    layers: tuple[LayerProfile, ...]

    @property
    def totals(self) -> dict[Cause, float]:
        """Cycles by cause."""
        return dict(zip(CAUSES, (self.products.sum(0) / self.macs).tolist(), strict=True))


def map_widths(network: IntegerNetwork, frames: int) -> dict[str, int]:
    """Pixels in a row of each node's map, in a run of so many frames; frames are pixels behind the pooling."""
    batch = Batch.of(network, infer_shapes(network), frames)
    return {batch.names[name]: shape.width for name, shape in batch.shapes.items()}


def profile_run(
    config: AcceleratorConfig,
    program: Program,
    widths: Mapping[str, int],
    timeline: np.ndarray,
    activity: Activity,
) -> RunProfile:
    """Accounts of a run from its activity and its timeline (see `SimulationResult.timelines`), counted from the first
    cycle of the activity. `widths`: see `map_widths`."""
    instructions = descriptors(program.image)
    matmul = np.array([i for i, descriptor in enumerate(instructions) if descriptor.engine == Engine.MATMUL])
    depthwise = [i for i, descriptor in enumerate(instructions) if descriptor.engine == Engine.DEPTHWISE]
    words = [array_words(instructions[i]) for i in matmul]
    chunks = [depthwise_chunks(instructions[i], config) for i in depthwise]
    causes, owner = _array_causes(activity, words)
    products = np.zeros((len(instructions), len(CAUSES)), np.int64)
    np.add.at(products, (matmul[owner], causes), activity.cycles * config.macs)
    for index in matmul:
        _, node, useful, *_ = program.timeline[index]
        _split_working(products[index], instructions[index], widths[node], useful, config)
    work = {
        Engine.MATMUL: _Work(activity, "matmul_issue", words),
        Engine.DEPTHWISE: _Work(activity, "depthwise", chunks),
    }
    gaps = {
        Engine.MATMUL: tuple((products[matmul[1:], _CODE[Cause.ISSUE]] // config.macs).tolist()),
        Engine.DEPTHWISE: work[Engine.DEPTHWISE].gaps(timeline[depthwise, 0]),
    }
    return RunProfile(
        cycles=int(activity.cycles.sum()),
        macs=config.macs,
        products=products,
        causes=causes,
        engines=tuple(_engine_use(config, program, e, activity, work.get(e), gaps.get(e, ())) for e in Engine),
        layers=tuple(_layers(config, program, timeline, products)),
    )


def _array_causes(activity: Activity, words: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Code of the cause, and matmul instruction, of every state. Waits belong to the instruction after them."""
    column = activity.columns
    issue, active, tile = (column[f"matmul_{name}"] == 1 for name in ("issue", "active", "tile_ready"))
    done = np.cumsum(issue * activity.cycles) - issue * activity.cycles  # words before each state
    ends = np.cumsum(words)
    owner = np.minimum(np.searchsorted(ends, done, side="right"), len(ends) - 1)
    loading = column["matmul_phase"]
    missing = (loading != Phase.IDLE.value) & (column["matmul_words_valid"] == 0)
    # State tiles come from the state buffer, not from the stream.
    missing &= (column["matmul_words_ready"] == 1) | (loading != Phase.TILES.value)
    records = (loading == Phase.TABLE.value) | (loading == Phase.RECORDS.value)
    blocked = records & (column["matmul_words_valid"] == 1) & (column["matmul_words_ready"] == 0)
    refused = (column["matmul_offered"] == 1) & (column["matmul_read"] == 0)
    full = tile & (column["matmul_bank_taken"] == 1)
    held, waits = activity.engine("held", Engine.MATMUL), _awaited(activity, owner)
    prepared = column["matmul_held"] != 0
    choices = (
        (issue, Cause.USEFUL),
        (active & full & refused, Cause.PORTS),
        (active & full & missing & records, Cause.MEMORY),
        (active & full, Cause.REQUANTIZER),
        (active & tile, Cause.WEIGHTS),
        (active & missing, Cause.MEMORY),
        (active & blocked, Cause.REQUANTIZER),
        (active, Cause.WEIGHTS),
        (prepared | (held & (waits < 0)), Cause.ISSUE),
        (~held, Cause.PROGRAM),
    )
    engines = np.array([_CODE[Cause[engine.name]] for engine in Engine])
    causes = np.select([c for c, _ in choices], [_CODE[cause] for _, cause in choices], engines[waits])
    first, last = np.flatnonzero(issue)[[0, -1]]
    causes[:first], causes[last + 1 :] = _CODE[Cause.START], _CODE[Cause.TAIL]
    return causes, owner


def _awaited(activity: Activity, owner: np.ndarray) -> np.ndarray:
    """The engine that the first instruction of the matmul queue waits for last, in every state; -1 if for none."""
    every = (1 << len(Engine)) - 1
    missing = every & ~activity.columns["over"]  # of the queue of engine 0, which is the matmul engine
    missing = np.where(activity.engine("held", Engine.MATMUL), missing & every, 0)
    last = np.full(len(missing), -1)
    engine = -1
    for state in range(len(missing) - 1, -1, -1):
        bits = int(missing[state])
        if not bits:
            engine = -1
        elif engine < 0 or owner[state] != owner[state + 1]:
            engine = bits.bit_length() - 1  # of several that come in the same cycle, not the matmul engine itself
        last[state] = engine
    return last


def _split_working(
    products: np.ndarray, descriptor: Descriptor, width: int, useful: int, config: AcceleratorConfig
) -> None:
    """Take padding out of the products of an instruction's words, given the width of its map."""
    pixels, whole = descriptor.body["groups_per_row"] * config.pixels, int(products[_CODE[Cause.USEFUL]])
    assert whole == array_words(descriptor) * config.macs
    padding = whole // pixels * (pixels - width)
    products[_CODE[Cause.PIXELS]] = padding
    products[_CODE[Cause.CHANNELS]] = whole - padding - useful
    products[_CODE[Cause.USEFUL]] = useful


def _engine_use(
    config: AcceleratorConfig,
    program: Program,
    engine: Engine,
    activity: Activity,
    work: "_Work | None",
    gaps: tuple[int, ...],
) -> EngineUse:
    busy, stalled = (int(activity.cycles[activity.engine(name, engine)].sum()) for name in ("busy", "stall"))
    own = [row for row in program.timeline if row[0] == engine]
    macs = sum(row[2] for row in own)
    capacity = macs_per_cycle(config).get(engine, 0)
    return EngineUse(
        engine=engine.name.lower(),
        instructions=len(own),
        busy=busy,
        stalled=stalled,
        running=work.running if work else None,
        macs=macs,
        utilisation=macs / max(capacity * busy, 1),
        running_utilisation=macs / max(capacity * work.running, 1) if work else None,
        occupancy=(work.cycles if work else busy - stalled) / max(busy, 1),
        gaps=gaps,
    )


class _Work:
    """When the multipliers of an engine work for each of its instructions, which they take one after the other.

    `begin`: cycle of an instruction's first operands; `end`: the cycle after its last ones. `lengths`: in how many
    cycles the multipliers work for each; `column`: of the activity, 1 in these cycles.
    """

    def __init__(self, activity: Activity, column: str, lengths: Sequence[int]) -> None:
        done = np.cumsum((activity.columns[column] == 1) * activity.cycles)
        self.cycles = sum(lengths)
        assert done[-1] == self.cycles
        ends = np.cumsum(np.array(lengths, np.int64))
        begins = ends - np.array(lengths, np.int64)
        first, last = np.searchsorted(done, begins, side="right"), np.searchsorted(done, ends, side="left")
        start = activity.start - activity.start[0]
        before = done - activity.cycles  # right for states in which they work
        self.begin = start[first] + begins - before[first]
        self.end = start[last] + ends - before[last]

    @property
    def running(self) -> int:
        """Cycles from the first operands of each instruction to its last ones."""
        return int((self.end - self.begin).sum())

    def gaps(self, taken: np.ndarray) -> tuple[int, ...]:
        """Idle cycles between an instruction and the next, where the engine had taken it by then."""
        return tuple((self.begin[1:] - self.end[:-1])[taken[1:] < self.end[:-1]].tolist())


def array_words(descriptor: Descriptor) -> int:
    """Words that a matmul instruction streams through the array."""
    body = descriptor.body
    return body["out_tiles"] * body["in_blocks"] * body["rows"] * body["groups_per_row"]


def depthwise_chunks(descriptor: Descriptor, config: AcceleratorConfig) -> int:
    """Cycles in which the multipliers of the depthwise engine work for an instruction."""
    body = descriptor.body
    passes = PASSES_5X5 if body["kernel5"] else PASSES_3X3
    return body["blocks"] * passes * body["rows"] * body["groups_per_row"] * -(-config.pixels // config.dw_pixels)


def _layers(
    config: AcceleratorConfig, program: Program, timeline: np.ndarray, products: np.ndarray
) -> Iterator[LayerProfile]:
    nodes = np.array([row[1] for row in program.timeline])
    for layer in layer_times(config, program, timeline):
        cycles = dict(zip(CAUSES, (products[nodes == layer.node].sum(0) / config.macs).tolist(), strict=True))
        yield LayerProfile(
            node=layer.node,
            engines=layer.engines,
            macs=layer.macs,
            start=layer.start,
            end=layer.end,
            predicted_end=layer.predicted_end,
            engine_cycles=layer.engine_cycles,
            predicted_engine_cycles=layer.predicted_engine_cycles,
            cycles=cycles,
            utilisation=layer.utilisation,
            bound=_bound(layer.engines, cycles),
        )


def _bound(engines: Sequence[str], cycles: dict[Cause, float]) -> str:
    """What took most of the time: the array itself, what it waited for, or, of layers elsewhere, their engine."""
    if "matmul" not in engines:
        return engines[0]
    groups = {"array": sum(cycles[cause] for cause in WORKING)}
    groups |= {cause.value: count for cause, count in cycles.items() if cause not in WORKING}
    return max(groups, key=groups.get)
