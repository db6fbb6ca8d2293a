"""Scratchpad buffers: feature maps as rings of rows, and their allocation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from random import Random

import numpy as np

from compiler.shapes import Shape
from hw.config import AcceleratorConfig

__all__ = ["Buffer", "Lifetime", "Reads", "allocate", "busiest", "find_unplaced"]

LAG = 500  #: cycles by which engines lag behind each other, about
SWEEPS = 8  #: over all buffers, at most
TRIALS = 16  #: orders of buffers by chance


@dataclass(frozen=True)
class Buffer:
    """A feature map in a scratchpad, words ordered [ring row][channel block][pixel group]; see `MapView`."""

    name: str
    blocks: int
    groups: int
    ring: int  #: rows that exist at a time
    pad: int = -1
    base: int = -1

    @property
    def row_stride(self) -> int:
        """Words of one row."""
        return self.blocks * self.groups

    @property
    def words(self) -> int:
        """Words of the whole ring."""
        return self.ring * self.row_stride

    def view(self, row: int, block: int = 0) -> dict[str, int]:
        """`MapView` fields with the view's row 0 at map row `row`, block 0 at `block`."""
        offset = self.base + block * self.groups
        return {
            "pad": self.pad,
            "base": offset,
            "limit": offset + self.words,
            "start": offset + row % self.ring * self.row_stride,
            "row_stride": self.row_stride,
        }

    def column(self, group: int, block: int = 0) -> dict[str, int]:
        """`MapView` fields of row 0 whose "rows" are the words of pixel group `group` in all channel blocks."""
        start = self.base + block * self.groups + group
        return {"pad": self.pad, "base": start, "limit": start, "start": start, "row_stride": self.groups}

    def column_addresses(self, group: int, blocks: range) -> np.ndarray:
        """Word addresses that such a view of `blocks` has."""
        return self.base + np.arange(blocks.start, blocks.stop) * self.groups + group

    def addresses(self, rows: range, blocks: range | None = None) -> np.ndarray:
        """Word addresses that map rows `rows` of channel blocks `blocks` (all, if None) occupy."""
        first, last = (blocks.start, blocks.stop) if blocks is not None else (0, self.blocks)
        row = self.base + np.arange(rows.start, rows.stop) % self.ring * self.row_stride
        return (row[:, None] + np.arange(first * self.groups, last * self.groups)).ravel()


@dataclass(frozen=True)
class Reads:
    """Words that a port reads of a buffer, and the first and last cycle in which it does, about."""

    words: int
    first: float
    last: float

    def at_once(self, other: "Reads") -> float:
        """Cycles in which both ports would read, if their words come evenly; engines lag behind each other."""
        cycles = min(self.last, other.last) - max(self.first, other.first) + LAG
        span, other_span = self.last - self.first + LAG, other.last - other.first + LAG
        return max(0, cycles) * min(self.words / span, 1) * min(other.words / other_span, 1)


@dataclass(frozen=True)
class Lifetime:
    """A buffer without a place yet, the first and last step that touch it, the pads in order of preference, and what is
    read of it, by port."""

    buffer: Buffer
    first: int
    last: int
    pads: tuple[int, ...]
    reads: dict[str, Reads]

    def conflicts(self, other: "Lifetime") -> float:
        """How much two buffers in one pad would hold up each other's readers: a pad serves one port at a time. (Writes
        hardly ever meet.)"""
        pairs = product(self.reads.items(), other.reads.items())
        return sum(reads.at_once(others) for (port, reads), (other_port, others) in pairs if port != other_port)


def blocks_of(channels: int, config: AcceleratorConfig) -> int:
    """Channel blocks of Ti channels."""
    return ceil(channels / config.in_lanes)


def buffer_for(name: str, shape: Shape, config: AcceleratorConfig, ring: int) -> Buffer:
    """Unplaced buffer of a feature map."""
    return Buffer(name, blocks_of(shape.channels, config), ceil(shape.width / config.pixels), min(ring, shape.height))


def allocate(lifetimes: list[Lifetime], pad_words: tuple[int, ...]) -> dict[str, Buffer] | str:
    """Place every buffer so that none overlaps another that lives at the same time, with few conflicts of readers.

    Tries several orders: large buffers first, those with most conflicts first, and both with some chance. Returns the
    placed buffers by name, or the name of a buffer that found no room: one of those that live when most words do, if
    they are more than all pads have, or else the first one, large ones first.
    """
    conflicts = _conflicts(lifetimes)
    best, least, stuck = None, float("inf"), ""
    for placed in _placements(lifetimes, conflicts, pad_words):
        if isinstance(placed, str):
            stuck = stuck or placed
            continue
        cost = sum(
            cost
            for i, buffer in placed.items()
            for j, cost in conflicts[i].items()
            if j < i and placed[j].pad == buffer.pad
        )
        if cost < least:
            best, least = placed, cost
    return stuck if best is None else {buffer.name: buffer for buffer in best.values()}


def find_unplaced(lifetimes: list[Lifetime], pad_words: tuple[int, ...]) -> str:
    """The name of a buffer that finds no room, as `allocate` does; empty if all do."""
    stuck = ""
    for placed in _placements(lifetimes, _conflicts(lifetimes), pad_words):
        if not isinstance(placed, str):
            return ""
        stuck = stuck or placed
    return stuck


def busiest(lifetimes: list[Lifetime], name: str | None = None) -> list[Buffer]:
    """The buffers at the step where most words live, of those steps in which one of that name does."""
    words: dict[int, int] = {}
    for item in lifetimes:
        words[item.first] = words.get(item.first, 0) + item.buffer.words
        words[item.last + 1] = words.get(item.last + 1, 0) - item.buffer.words
    named = next((item for item in lifetimes if item.buffer.name == name), None)
    total, most, best = 0, -1, 0
    for step in sorted(words):
        total += words[step]
        if total > most and (named is None or named.first <= step <= named.last):
            most, best = total, step
    return [item.buffer for item in lifetimes if item.first <= best <= item.last]


def _conflicts(lifetimes: list[Lifetime]) -> list[dict[int, float]]:
    """Of every buffer, with all that live at the same time."""
    conflicts: list[dict[int, float]] = [{} for _ in lifetimes]
    living: list[int] = []
    for i in sorted(range(len(lifetimes)), key=lambda index: lifetimes[index].first):
        living = [j for j in living if lifetimes[j].last >= lifetimes[i].first]
        for j in living:
            conflicts[i][j] = conflicts[j][i] = lifetimes[i].conflicts(lifetimes[j])
        living.append(i)
    return conflicts


def _placements(
    lifetimes: list[Lifetime], conflicts: list[dict[int, float]], pad_words: tuple[int, ...]
) -> Iterator[dict[int, Buffer] | str]:
    """What `_place` returns for several orders."""
    living = busiest(lifetimes)
    if sum(buffer.words for buffer in living) > sum(pad_words):
        yield max(living, key=lambda buffer: buffer.words).name
        return
    words = [item.buffer.words for item in lifetimes]
    weights = [size * (1 + sum(held_up.values())) for size, held_up in zip(words, conflicts, strict=True)]
    rng = Random(0)
    chances = ([weight * rng.uniform(0.5, 1.5) for weight in weights] for _ in range(TRIALS))
    for keys in (words, weights, *chances):
        yield _place(lifetimes, conflicts, pad_words, keys)


def _place(
    lifetimes: list[Lifetime], conflicts: list[dict[int, float]], pad_words: tuple[int, ...], keys: Sequence[float]
) -> dict[int, Buffer] | str:
    """Place the buffers with the largest keys first, each in the pad with the fewest conflicts that has room, in the
    first gap; then each again, as long as there is a better pad for one."""
    order = sorted(range(len(lifetimes)), key=lambda i: (-keys[i], lifetimes[i].first, i))
    placed: dict[int, Buffer] = {}
    for _ in range(SWEEPS):
        moved = False
        for index in order:
            before = placed.pop(index, None)
            best = _best_place(lifetimes[index], conflicts[index], placed, pad_words, before)
            if best is None:
                return lifetimes[index].buffer.name
            placed[index] = best
            moved |= best != before
        if not moved:
            break
    return placed


def _best_place(
    item: Lifetime,
    conflicts: dict[int, float],
    placed: dict[int, Buffer],
    pad_words: tuple[int, ...],
    before: Buffer | None,
) -> Buffer | None:
    """The place with the fewest conflicts, `before` unless another one is better."""
    neighbours: list[list[int]] = [[] for _ in pad_words]
    for other in conflicts.keys() & placed.keys():
        neighbours[placed[other].pad].append(other)
    costs = {pad: sum(conflicts[other] for other in sorted(neighbours[pad])) for pad in item.pads}
    best, least = before, float("inf") if before is None else costs[before.pad] - 1e-6
    for pad in item.pads:
        if costs[pad] < least:
            base = _first_gap(item.buffer.words, [placed[other] for other in neighbours[pad]], pad_words[pad])
            if base is not None:
                best, least = replace(item.buffer, pad=pad, base=base), costs[pad]
    return best


def _first_gap(words: int, taken: list[Buffer], size: int) -> int | None:
    base = 0
    for buffer in sorted(taken, key=lambda b: b.base):
        if buffer.base - base >= words:
            break
        base = max(base, buffer.base + buffer.words)
    return base if base + words <= size else None
