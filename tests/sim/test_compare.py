"""Stored bytes to codes and back, and the naming of mismatches."""

import numpy as np
import pytest

from compiler.program import Program, StoredMap
from compiler.results import decode, decode_scores, encode, encode_scores
from hw.config import AcceleratorConfig
from sim.compare import compare_frame, first_mismatch

CONFIGS = [
    AcceleratorConfig(pixels=7, in_lanes=16, act_bits=8),
    AcceleratorConfig(pixels=3, in_lanes=8, out_lanes=8, dw_pixels=3, act_bits=4, bus_bits=64),
    AcceleratorConfig(pixels=1, in_lanes=2, out_lanes=2, dw_pixels=1, requant_channels=2, act_bits=3, bus_bits=64),
    AcceleratorConfig(
        pixels=5, in_lanes=4, out_lanes=8, dw_pixels=2, requant_channels=4, act_bits=5, bus_bits=256, bus_ports=1
    ),
]
IDS = [f"P{c.pixels}-Ti{c.in_lanes}-A{c.act_bits}" for c in CONFIGS]


def band(
    config: AcceleratorConfig, node: str, channels: int, rows: int, width: int, row: int = 0, offset: int = 0
) -> StoredMap:
    blocks, groups = -(-channels // config.in_lanes), -(-width // config.pixels)
    return StoredMap(node, offset, row, rows, width, channels, blocks, groups)


def scores_band(config: AcceleratorConfig, channels: int, offset: int = 0) -> StoredMap:
    return StoredMap("scores", offset, 0, 1, 1, channels, -(-channels // config.in_lanes), 1, scores=True)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("channels, rows, width", [(1, 1, 1), (16, 3, 7), (21, 4, 10)])
def test_maps_survive_encoding(config: AcceleratorConfig, channels: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(1)
    stored = band(config, "map", channels, rows, width)
    codes = rng.integers(0, 1 << config.act_bits, (channels, rows, width))
    area = encode(config, stored, codes)
    assert len(area) == rows * stored.blocks * stored.groups * config.pad_word_beats * config.bus_bytes
    np.testing.assert_array_equal(decode(config, stored, area), codes)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_scores_survive_encoding(config: AcceleratorConfig) -> None:
    scores = np.array([0, 1, -1, 32767, -32768, 1234, -4321, 255, 256, -256, 77])
    stored = scores_band(config, len(scores))
    np.testing.assert_array_equal(decode_scores(config, stored, encode_scores(config, stored, scores)), scores)


def test_layout_of_a_word() -> None:
    """Element [pixel][channel] of 4 bits, low bits first; words of 96 bits in two beats of 64."""
    config = CONFIGS[1]
    area = np.zeros(4 * 16, np.uint8)  # [row 0..1][block 0..1]
    area[3 * 16 + (2 * 8 + 5) // 2] = 0xB0  # row 1, block 1, pixel 2, lane 5
    codes = decode(config, band(config, "map", 16, 2, 3), area)
    assert codes[13, 1, 2] == 0xB
    assert np.count_nonzero(codes) == 1


def make_frame(config: AcceleratorConfig) -> tuple[Program, np.ndarray, dict[str, np.ndarray]]:
    """A node in two bands, a second node, and scores, all right."""
    rng = np.random.default_rng(2)
    trace = {
        "stem": rng.integers(0, 1 << config.act_bits, (6, 5, 4)),
        "pool": rng.integers(0, 1 << config.act_bits, (9, 1, 1)),
        "scores": rng.integers(-(1 << 15), 1 << 15, (10, 1, 1)),
    }
    stored, area = [], np.zeros(0, np.uint8)
    for node, row, rows in (("stem", 0, 3), ("stem", 3, 2), ("pool", 0, 1)):
        codes = trace[node][:, row : row + rows]
        stored.append(band(config, node, len(codes), rows, codes.shape[2], row, len(area)))
        area = np.concatenate([area, encode(config, stored[-1], codes)])
    stored.append(scores_band(config, 10, len(area)))
    area = np.concatenate([area, encode_scores(config, stored[-1], trace["scores"][:, 0, 0])])
    return Program(b"", config.hash, 0, len(area), tuple(stored), 0), area, trace


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_equal_frames(config: AcceleratorConfig) -> None:
    program, area, trace = make_frame(config)
    boundaries = compare_frame(config, program, area, trace)
    assert [(b.node, b.elements, b.mismatches) for b in boundaries] == [
        ("stem", 120, 0), ("pool", 9, 0), ("scores", 10, 0)
    ]  # fmt: skip
    assert first_mismatch(boundaries) is None


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_first_mismatch_is_named(config: AcceleratorConfig) -> None:
    program, area, trace = make_frame(config)
    got = {"stem": trace["stem"].copy(), "pool": trace["pool"] ^ 1}
    got["stem"][4, 3, 1] ^= 1
    got["stem"][5, 4, 3] ^= 1
    for stored in program.stored[:3]:
        encoded = encode(config, stored, got[stored.node][:, stored.row : stored.row + stored.rows])
        area[stored.offset : stored.offset + len(encoded)] = encoded
    cycles = np.arange(len(area) // config.bus_bytes) + 100
    first = first_mismatch(compare_frame(config, program, area, trace, cycles))
    assert (first.node, first.elements, first.mismatches, first.first) == ("stem", 120, 2, (4, 3, 1))
    assert (first.expected, first.got) == (trace["stem"][4, 3, 1], got["stem"][4, 3, 1])
    beat = program.stored[1].offset + element_byte(config, 4, 0, 1, blocks=-(-6 // config.in_lanes), width=4)
    assert first.cycle == 100 + beat // config.bus_bytes
    assert f"channel 4, row 3, column 1: expected {first.expected}, got {first.got} (written in cycle" in str(first)


def element_byte(config: AcceleratorConfig, channel: int, row: int, column: int, blocks: int, width: int) -> int:
    word = (row * blocks + channel // config.in_lanes) * -(-width // config.pixels) + column // config.pixels
    bit = (column % config.pixels * config.in_lanes + channel % config.in_lanes) * config.act_bits
    return word * config.pad_word_beats * config.bus_bytes + bit // 8


def test_words_that_were_never_written() -> None:
    config = CONFIGS[0]
    program, area, trace = make_frame(config)
    area[:] = 0xA5
    cycles = np.zeros(len(area) // config.bus_bytes, np.uint64)
    assert "never written" in str(compare_frame(config, program, area, trace, cycles)[0])


def test_map_beyond_the_result_area() -> None:
    config = CONFIGS[0]
    with pytest.raises(ValueError, match="exceeds the result area"):
        decode(config, band(config, "map", 16, 2, 7, offset=16), np.zeros(112, np.uint8))
