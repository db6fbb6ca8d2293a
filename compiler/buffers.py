"""Scratchpad buffers: feature maps as rings of rows, and their allocation."""

from dataclasses import dataclass, replace
from itertools import product
from math import ceil

import numpy as np

from compiler.shapes import Shape
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine

__all__ = ["Buffer", "Lifetime", "allocate"]


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
class Lifetime:
    """A buffer without a place yet, the first and last step that touch it, and the pads in order of preference.

    `traffic` counts the words that go through a port of its pad, by port ("read", "write") and engine.
    """

    buffer: Buffer
    first: int
    last: int
    pads: tuple[int, ...]
    traffic: dict[tuple[str, Engine], int]

    def overlap(self, other: "Lifetime") -> int:
        """Steps in which both live."""
        return max(0, min(self.last, other.last) - max(self.first, other.first) + 1)

    def conflicts(self, other: "Lifetime") -> float:
        """How much two buffers in one pad would hold up each other's engines: each port serves one at a time."""
        steps = self.overlap(other) / ((self.last - self.first + 1) * (other.last - other.first + 1))
        pairs = product(self.traffic.items(), other.traffic.items())
        return steps * sum(
            words * others
            for ((port, engine), words), ((other_port, other_engine), others) in pairs
            if port == other_port and engine != other_engine
        )


def blocks_of(channels: int, config: AcceleratorConfig) -> int:
    """Channel blocks of Ti channels."""
    return ceil(channels / config.in_lanes)


def buffer_for(name: str, shape: Shape, config: AcceleratorConfig, ring: int) -> Buffer:
    """Unplaced buffer of a feature map."""
    return Buffer(name, blocks_of(shape.channels, config), ceil(shape.width / config.pixels), min(ring, shape.height))


def allocate(lifetimes: list[Lifetime], pad_words: tuple[int, ...]) -> dict[str, Buffer] | str:
    """Place every buffer so that none overlaps another that lives at the same time.

    Large ones first, each in the pad with the fewest conflicts that has room, in the first gap. Returns the placed
    buffers by name, or the name of the first buffer that found no room.
    """
    placed: list[tuple[Lifetime, Buffer]] = []
    for item in sorted(lifetimes, key=lambda x: (-x.buffer.words, x.first)):
        alive = [(other, buffer) for other, buffer in placed if item.overlap(other)]
        best, least = None, float("inf")
        for pad in item.pads:
            neighbours = [(other, buffer) for other, buffer in alive if buffer.pad == pad]
            base = _first_gap(item.buffer.words, [buffer for _, buffer in neighbours], pad_words[pad])
            conflicts = sum(item.conflicts(other) for other, _ in neighbours)
            if base is not None and conflicts < least:
                best, least = replace(item.buffer, pad=pad, base=base), conflicts
        if best is None:
            return item.buffer.name
        placed.append((item, best))
    return {buffer.name: buffer for _, buffer in placed}


def _first_gap(words: int, taken: list[Buffer], size: int) -> int | None:
    base = 0
    for buffer in sorted(taken, key=lambda b: b.base):
        if buffer.base - base >= words:
            break
        base = max(base, buffer.base + buffer.words)
    return base if base + words <= size else None
