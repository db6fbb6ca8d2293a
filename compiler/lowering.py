"""IntegerNetwork -> instructions: row bands where maps are large, channel chunks where they are small.

Rows are made on demand: to make a band of a node's rows, the rows of its inputs that it needs are made first. One walk
over the network plans the steps and learns how many rows of each map live at a time (`compiler.plan`); the steps of
several frames are interleaved; then buffers get their places, and the steps are emitted (`compiler.emission`). Their
order is a valid sequential program; `compiler.schedule` finds the parallelism in it.
"""

from collections.abc import Generator, Iterator

from compiler.batch import Batch
from compiler.buffers import Buffer, allocate, busiest, find_unplaced
from compiler.emission import Lowered, emit
from compiler.errors import CompileError, Obstacle
from compiler.parts import in_parts
from compiler.plan import Plan
from compiler.spill import cheapest_cut, spilled
from hw.config import AcceleratorConfig

__all__ = ["lower"]

#: right shifts of the words in a band: long bands reuse weights, short ones take less memory
BANDS = (0, 1, 2, 16)
SLACKS = (2, 1, 0)  #: extra bands per ring let engines overlap; the first one that fits the scratchpads is used
#: work of a frame that is left to do when the next one begins, in parts of the whole
OVERLAPS = (0.75, 0.5, 0.25, 0.0)


def lower(batch: Batch, config: AcceleratorConfig, *, trace: bool) -> Iterator[Lowered]:
    """Emit the instructions of one run, in one way for each length of bands and overlap of its frames that fits the
    scratchpads; bands of single rows only if no others do. If nothing fits, maps come in parts, and, if that is not
    enough, as few as possible in external memory; there are choices then with some more in external memory, which
    leaves room for longer bands. With `trace`, every node's map is stored to the result area as well.

    Raises `CompileError` if no choice fits the scratchpads.
    """
    if (yield from _lower(batch, config, trace)):
        return
    parts = in_parts(batch, config)
    names = _spills(parts, config, trace)
    way = spilled(parts, names, config)
    yield from _lower(way, config, trace)
    if more := cheapest_cut(way, _crowd(way, config, trace, BANDS[0], SLACKS[0]), config) - names:
        yield from _lower(spilled(parts, names | more, config), config, trace)


def _spills(parts: Batch, config: AcceleratorConfig, trace: bool) -> frozenset[str]:
    """Original names of maps without which the others have room, though bands are as short as can be."""
    names: frozenset[str] = frozenset()
    while crowd := _crowd(way := spilled(parts, names, config), config, trace, BANDS[-1], SLACKS[-1]):
        cut = cheapest_cut(way, crowd, config)
        if cut <= names:
            raise CompileError([_obstacle(crowd, way)])
        names |= cut
    for name in sorted(names):  # later ones may have made it needless
        fewer = names - {name}
        if not _crowd(spilled(parts, fewer, config), config, trace, BANDS[-1], SLACKS[-1]):
            names = fewer
    return names


def _obstacle(crowd: dict[str, Buffer], batch: Batch) -> Obstacle:
    name = max(crowd, key=lambda name: crowd[name].words)
    shape = batch.shapes[name]
    size = f"{shape.channels} x {shape.height} x {shape.width}"
    return Obstacle(name, f"no scratchpad has room for its map ({size})", "raise pad_words, or use a smaller image")


def _lower(batch: Batch, config: AcceleratorConfig, trace: bool) -> Generator[Lowered, None, bool]:
    """Like `lower`, with the maps of this batch; returns whether anything fits."""
    fits = False
    for shift in BANDS:
        if fits and shift == BANDS[-1]:
            break
        for overlap in OVERLAPS if batch.frames > 1 else (0.0,):
            plan = Plan(batch, config, trace, config.acc_depth >> shift)
            plan.interleave(overlap)
            for slack in SLACKS:
                placed = allocate(plan.lifetimes(slack), config.pad_words)
                if isinstance(placed, dict):
                    yield emit(plan, placed)
                    fits = True
                    break
    return fits


def _crowd(batch: Batch, config: AcceleratorConfig, trace: bool, shift: int, slack: int) -> dict[str, Buffer]:
    """The buffers that live with one that finds no room, for bands of some length; none if all find room."""
    lifetimes = Plan(batch, config, trace, config.acc_depth >> shift).lifetimes(slack)
    stuck = find_unplaced(lifetimes, config.pad_words)
    return {buffer.name: buffer for buffer in busiest(lifetimes, stuck)} if stuck else {}
