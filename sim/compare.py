"""What an accelerator stored, decoded and compared with the integer network, boundary by boundary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compiler.program import Program, StoredMap
from compiler.results import decode, decode_scores, word_bytes
from hw.config import AcceleratorConfig

__all__ = ["Boundary", "compare_frame", "first_mismatch"]


@dataclass(frozen=True)
class Boundary:
    """The comparison of one node's stored codes with the integer network."""

    node: str
    elements: int
    mismatches: int
    first: tuple[int, int, int] | None = None  #: channel, row, column of the first mismatch
    expected: int = 0
    got: int = 0
    cycle: int | None = None  #: in which it was written, from the start of the frame; None: never, or not recorded

    def __str__(self) -> str:
        if not self.mismatches:
            return f"{self.node}: {self.elements} elements equal"
        when = "never written" if self.cycle is None else f"written in cycle {self.cycle}"
        return (
            f"{self.node}: {self.mismatches} of {self.elements} elements differ; the first is channel {self.first[0]}, "
            f"row {self.first[1]}, column {self.first[2]}: expected {self.expected}, got {self.got} ({when})"
        )


def first_mismatch(boundaries: Sequence[Boundary]) -> Boundary | None:
    """The earliest boundary, in the order in which the program stores them, that has a mismatch."""
    return next((boundary for boundary in boundaries if boundary.mismatches), None)


def compare_frame(
    config: AcceleratorConfig,
    program: Program,
    result_area: np.ndarray,
    trace: Mapping[str, np.ndarray],
    write_cycles: np.ndarray | None = None,
    *,
    frame: int = 0,
) -> list[Boundary]:
    """Compare everything that a frame stored with the codes that `trace` has for it.

    Parameters
    ----------
    result_area : uint8 array
        The run's result area.
    trace : mapping
        Codes (C, H, W) by node: one image of `IntegerNetwork.run(images, trace=True)`.
    write_cycles : integer array, optional
        The cycle in which each beat of the result area was written; 0 for beats that never were.
    frame : int
        Which frame of the run.
    """
    boundaries: dict[str, Boundary] = {}
    for stored in (s for s in program.stored if s.frame == frame):
        band = _compare_band(config, stored, result_area, np.asarray(trace[stored.node]), write_cycles)
        if (before := boundaries.get(stored.node)) is not None:
            band = _join(before, band)
        boundaries[stored.node] = band
    return list(boundaries.values())


def _join(a: Boundary, b: Boundary) -> Boundary:
    earlier = a if a.mismatches else b
    return replace(earlier, elements=a.elements + b.elements, mismatches=a.mismatches + b.mismatches)


def _compare_band(
    config: AcceleratorConfig,
    stored: StoredMap,
    result_area: np.ndarray,
    expected: np.ndarray,
    write_cycles: np.ndarray | None,
) -> Boundary:
    if stored.scores:
        got = decode_scores(config, stored, result_area).reshape(-1, 1, 1)
    else:
        got = decode(config, stored, result_area)
        channels = slice(stored.channel, stored.channel + stored.channels)
        expected = expected[channels, stored.row : stored.row + stored.rows]
    if got.shape != expected.shape:
        raise ValueError(f"{stored.node}: the program stores {got.shape}, but the network makes {expected.shape}")
    differs = got != expected
    if not (count := int(differs.sum())):
        return Boundary(stored.node, got.size, 0)
    channel, row, column = (int(i) for i in np.unravel_index(np.argmax(differs), differs.shape))
    cycle = None
    if write_cycles is not None:
        byte = stored.offset + _element_byte(config, stored, channel, row, column)
        cycle = int(write_cycles[byte // config.bus_bytes]) or None
    index = (channel, row, column)
    first = (stored.channel + channel, stored.row + row, column)
    return Boundary(stored.node, got.size, count, first, int(expected[index]), int(got[index]), cycle)


def _element_byte(config: AcceleratorConfig, stored: StoredMap, channel: int, row: int, column: int) -> int:
    """Byte of an element from the beginning of its band; of class scores, in the first slice."""
    block, lane = divmod(channel, config.in_lanes)
    group, pixel = divmod(stored.pixel + column, config.pixels)
    word = (row * stored.blocks + block) * stored.groups + group
    bit = (pixel * config.in_lanes + lane) * config.act_bits
    return word * word_bytes(config) + bit // 8
