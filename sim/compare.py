"""What an accelerator stored, decoded and compared with the integer network, boundary by boundary.

Scratchpad words hold P pixels of Ti channels of `act_bits` bits, low bits first, ordered [pixel][channel], and are
padded to whole bus beats; see docs/architecture/contracts.md and `compiler.program.StoredMap`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compiler.program import Program, StoredMap
from hw.config import AcceleratorConfig

__all__ = ["Boundary", "compare_frame", "decode", "decode_scores", "encode", "encode_scores", "first_mismatch"]


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
        expected = expected[:, stored.row : stored.row + stored.rows]
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
    first = (channel, stored.row + row, column)
    return Boundary(stored.node, got.size, count, first, int(expected[index]), int(got[index]), cycle)


def _element_byte(config: AcceleratorConfig, stored: StoredMap, channel: int, row: int, column: int) -> int:
    """Byte of an element from the beginning of its band; of class scores, in the first slice."""
    block, lane = divmod(channel, config.in_lanes)
    group, pixel = divmod(stored.pixel + column, config.pixels)
    word = (row * stored.blocks + block) * stored.groups + group
    bit = (pixel * config.in_lanes + lane) * config.act_bits
    return word * _word_bytes(config) + bit // 8


def _word_bytes(config: AcceleratorConfig) -> int:
    return config.pad_word_beats * config.bus_bytes


def decode(config: AcceleratorConfig, stored: StoredMap, result_area: np.ndarray) -> np.ndarray:
    """Codes (channels, rows, width), int32, of a stored band."""
    codes = _unpack(config, result_area, stored.offset, stored.rows * stored.blocks * stored.groups)
    codes = codes.reshape(stored.rows, stored.blocks, stored.groups, config.pixels, config.in_lanes)
    codes = codes.transpose(1, 4, 0, 2, 3).reshape(stored.blocks * config.in_lanes, stored.rows, -1)
    return codes[: stored.channels, :, stored.pixel : stored.pixel + stored.width]


def decode_scores(config: AcceleratorConfig, stored: StoredMap, result_area: np.ndarray) -> np.ndarray:
    """Class scores (channels,), int32: a pixel of `slices` words per block, put together."""
    codes = _unpack(config, result_area, stored.offset, config.slices * stored.blocks * stored.groups)
    group, pixel = divmod(stored.pixel, config.pixels)
    parts = codes[group :: stored.groups, pixel].reshape(config.slices, -1)[:, : stored.channels]
    values = sum(part << (i * config.act_bits) for i, part in enumerate(parts))
    sign = 1 << (config.slices * config.act_bits - 1)
    return (values ^ sign) - sign


def encode(config: AcceleratorConfig, stored: StoredMap, codes: np.ndarray) -> np.ndarray:
    """Bytes (uint8) of a band that holds `codes` (channels, rows, width); what `decode` reads. Padding is 0."""
    shape = (stored.blocks * config.in_lanes, stored.rows, stored.groups * config.pixels)
    padded = np.zeros(shape, np.int32)
    padded[: stored.channels, :, stored.pixel : stored.pixel + stored.width] = codes
    words = padded.reshape(stored.blocks, config.in_lanes, stored.rows, stored.groups, config.pixels)
    return _pack(config, words.transpose(2, 0, 3, 4, 1).reshape(-1, config.pixels, config.in_lanes))


def encode_scores(config: AcceleratorConfig, stored: StoredMap, scores: np.ndarray) -> np.ndarray:
    """Bytes (uint8) of class `scores` (channels,); what `decode_scores` reads."""
    words = np.zeros((config.slices, stored.blocks * config.in_lanes), np.int32)
    for i in range(config.slices):
        words[i, : stored.channels] = scores >> (i * config.act_bits) & ((1 << config.act_bits) - 1)
    group, pixel = divmod(stored.pixel, config.pixels)
    pixels = np.zeros((config.slices * stored.blocks * stored.groups, config.pixels, config.in_lanes), np.int32)
    pixels[group :: stored.groups, pixel] = words.reshape(-1, config.in_lanes)
    return _pack(config, pixels)


def _unpack(config: AcceleratorConfig, area: np.ndarray, offset: int, words: int) -> np.ndarray:
    """Codes (words, pixels, lanes), int32, of consecutive stored words."""
    size = _word_bytes(config)
    if offset + words * size > len(area):
        raise ValueError(f"a map of {words * size} bytes at {offset} exceeds the result area of {len(area)} bytes")
    stored = np.asarray(area[offset : offset + words * size], np.uint8).reshape(words, size)
    bits = np.unpackbits(stored, axis=1, count=config.pad_word_bits, bitorder="little")
    codes = np.packbits(bits.reshape(-1, config.act_bits), axis=1, bitorder="little")  # one code per byte
    return codes.reshape(words, config.pixels, config.in_lanes).astype(np.int32)


def _pack(config: AcceleratorConfig, codes: np.ndarray) -> np.ndarray:
    """The inverse of `_unpack`, padded to whole beats."""
    bits = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, count=config.act_bits, bitorder="little")
    words = np.packbits(bits.reshape(len(codes), -1), axis=1, bitorder="little")
    return np.pad(words, ((0, 0), (0, _word_bytes(config) - words.shape[1]))).reshape(-1)
