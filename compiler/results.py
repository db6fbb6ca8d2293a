"""What lies in a result area: feature maps and class scores, decoded and encoded.

Scratchpad words hold P pixels of Ti channels of `act_bits` bits, low bits first, ordered [pixel][channel], and are
padded to whole bus beats; see docs/architecture/contracts.md and `compiler.program.StoredMap`.
"""

import numpy as np

from compiler.program import StoredMap
from hw.config import AcceleratorConfig

__all__ = ["decode", "decode_scores", "encode", "encode_scores", "score_bytes", "word_bytes"]


def word_bytes(config: AcceleratorConfig) -> int:
    """Bytes of a stored scratchpad word."""
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


def score_bytes(config: AcceleratorConfig, stored: StoredMap) -> int:
    """Bytes from the beginning of the result area to the end of a frame's class scores."""
    return stored.offset + config.slices * stored.blocks * stored.groups * word_bytes(config)


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
    size = word_bytes(config)
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
    return np.pad(words, ((0, 0), (0, word_bytes(config) - words.shape[1]))).reshape(-1)
