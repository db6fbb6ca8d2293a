"""Parameter streams: weights, requantization records, and tables as the engines consume them (docs: contracts.md)."""

from math import ceil, gcd, lcm

import numpy as np

from hw.config import DW_TAPS, STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import record_layout
from quant import numerics
from quant.integer_network import Conv, Requant

__all__ = [
    "depthwise_parameters",
    "groups_per_matmul_group",
    "matmul_parameters",
    "matmul_weights",
    "pack_elements",
    "records",
    "requant_parameters",
    "table_bytes",
    "to_words",
]


def pack_elements(values: np.ndarray, bits: int) -> bytes:
    """Pack integers as two's complement of `bits` (1, 2, 4, or a multiple of 8) bits each, low bits first."""
    values = np.ascontiguousarray(values.ravel()).astype(np.int64)
    if bits % 8 == 0:
        return values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    per_byte = 8 // bits
    padded = np.zeros(ceil(len(values) / per_byte) * per_byte, np.int64)
    padded[: len(values)] = values & ((1 << bits) - 1)
    shifts = np.arange(per_byte) * bits
    return (padded.reshape(-1, per_byte) << shifts).sum(1).astype(np.uint8).tobytes()


def to_words(content: bytes, word_bits: int) -> bytes:
    """Pad a block with zeros to whole stream words."""
    word = word_bits // 8
    return content + bytes(-len(content) % word)


def records(requant: Requant, channels: range, padded: int) -> bytes:
    """Requantization records of `channels`, zero-filled to `padded` channels."""
    layout = record_layout()
    columns = {
        "bias": requant.bias,
        "multiplier": requant.multiplier,
        "shift": requant.shift,
        "zero_point": requant.zero_point,
        "multiplier2": requant.multiplier2,
    }
    words = [0] * padded
    for name, column in columns.items():
        field = layout[name]
        for i, value in enumerate(column[channels.start : channels.stop].tolist()):
            if not -(1 << (field.width - 1)) <= value < 1 << field.width:
                raise ValueError(f"{name} = {value} of channel {channels.start + i} does not fit {field.width} bits")
            words[i] |= (value & ((1 << field.width) - 1)) << field.offset
    return b"".join(word.to_bytes(layout.size // 8, "little") for word in words)


def table_bytes(table: np.ndarray, word_bits: int) -> bytes:
    """An activation table in whole stream words."""
    return to_words(pack_elements(table, numerics.OPERAND_BITS), word_bits)


def groups_per_matmul_group(node: Conv, config: AcceleratorConfig) -> int:
    """Groups of a 1x1 convolution that the MAC array takes as one, with zeros between them, to fill whole tiles; all
    of them, which needs no whole tiles, if no smaller number divides them."""
    outputs, inputs = len(node.weight) // node.groups, node.weight.shape[1]
    count = lcm(config.out_lanes // gcd(outputs, config.out_lanes), config.in_lanes // gcd(inputs, config.in_lanes))
    return node.groups if node.groups % count else count


def matmul_weights(node: Conv, stem: bool, config: AcceleratorConfig) -> np.ndarray:
    """Weights of a matmul as (groups, outputs, input lanes): 1x1 kernels, small groups together; the stem's unrolled as
    the loader does: kernel row by kernel row, bytes [kx][channel], each row padded to whole blocks."""
    weight = node.weight.numpy()  # int8; the many instructions of a layer share it
    if not stem:
        count = groups_per_matmul_group(node, config)
        groups = weight.reshape(node.groups // count, count, -1, weight.shape[1])
        if count == 1:
            return groups[:, 0]
        diagonal = np.einsum("gcoi,cd->gcodi", groups, np.eye(count, dtype=np.int8))
        return diagonal.reshape(len(groups), count * groups.shape[2], count * groups.shape[3])
    outputs = weight.shape[0]
    rows = np.zeros((outputs, weight.shape[2], config.stem_blocks * config.in_lanes), np.int8)
    rows[:, :, :STEM_TAPS] = weight.transpose(0, 2, 3, 1).reshape(outputs, weight.shape[2], STEM_TAPS)
    return rows.reshape(1, outputs, -1)


def matmul_parameters(weights: np.ndarray, requant: Requant, channels: range, config: AcceleratorConfig) -> bytes:
    """Records and weight tiles of output channels `channels` of a matmul, without the table.

    weights: (groups, outputs per group, inputs per group); `channels` begins on a tile, and on a group if grouped.
    """
    inputs = weights.shape[2]
    ti, to = config.in_lanes, config.out_lanes
    in_blocks = ceil(inputs / ti)
    padded = np.zeros((len(channels), in_blocks * ti), np.int8)
    padded[:, :inputs] = weights.reshape(-1, inputs)[channels.start : channels.stop]
    rows = padded.reshape(len(channels), in_blocks, ti)
    parts = []
    for first in range(0, len(channels), to):
        last = min(first + to, len(channels))
        chosen = range(channels.start + first, channels.start + last)
        parts.append(to_words(records(requant, chosen, to), config.stream_bits))
        tile_rows = np.zeros((to, in_blocks, ti), np.int8)
        tile_rows[: last - first] = rows[first:last]
        tiles = tile_rows.transpose(1, 2, 0)  # (in_blocks, ti, to)
        parts.extend(to_words(pack_elements(tile, config.operand_bits), config.stream_bits) for tile in tiles)
    return b"".join(parts)


def requant_parameters(requant: Requant, channels: range, group: int, word_bits: int) -> bytes:
    """Records alone, in groups of `group` channels."""
    return b"".join(
        to_words(records(requant, range(first, min(first + group, channels.stop)), group), word_bits)
        for first in range(channels.start, channels.stop, group)
    )


def depthwise_parameters(node: Conv, channels: range, config: AcceleratorConfig) -> bytes:
    """Records, pad codes, and passes of the channel blocks of `channels` of a depthwise convolution."""
    ti, word = config.in_lanes, config.bus_bits
    weight = node.weight.numpy().astype(np.int64)[:, 0]
    kernel = node.kernel
    tap_groups = ceil(kernel / DW_TAPS)
    parts = []
    for first in range(channels.start, channels.stop, ti):
        chosen = range(first, min(first + ti, channels.stop))
        parts.append(to_words(records(node.requant, chosen, ti), word))
        codes = np.zeros(ti, np.int64)
        codes[: len(chosen)] = node.pad_value.numpy()[chosen.start : chosen.stop]
        parts.append(to_words(pack_elements(codes, 8), word))
        taps = np.zeros((kernel, tap_groups * DW_TAPS, ti), np.int64)
        taps[:, :kernel, : len(chosen)] = weight[chosen.start : chosen.stop].transpose(1, 2, 0)
        for one_pass in taps.reshape(kernel * tap_groups, DW_TAPS, ti):
            parts.append(to_words(pack_elements(one_pass, config.dw_weight_bits), word))
    return b"".join(parts)
