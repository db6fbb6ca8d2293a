"""How long an instruction takes: the formulas of the engines' docstrings, in one place."""

from dataclasses import dataclass

from compiler.instructions import Instruction
from hw.config import DW_TAPS, AcceleratorConfig
from hw.control.descriptors import Engine

__all__ = ["Timing", "timing"]


@dataclass(frozen=True)
class Timing:
    """Cycles that an instruction keeps its engine, and cycles until its results are there."""

    busy: int
    latency: int


def timing(instruction: Instruction, config: AcceleratorConfig) -> Timing:
    """Estimated cycles of an instruction whose operands and parameters are there."""
    return _FORMULAS[instruction.engine](instruction.fields, config)


def _matmul(f: dict, config: AcceleratorConfig) -> Timing:
    words = f["rows"] * f["groups_per_row"]
    subblocks = config.out_lanes // config.requant_channels
    beat = config.slices if f["requant"].get("wide") else 1
    passes = f["in_blocks"] * max(words, config.tile_words, 4)
    drain = words * subblocks * beat
    busy = f["out_tiles"] * max(passes, drain)
    return Timing(busy, busy + drain + 20)


def _depthwise(f: dict, config: AcceleratorConfig) -> Timing:
    kernel = 5 if f["kernel5"] else 3
    chunks = -(-config.pixels // config.dw_pixels)
    step = max(chunks, 2 if f["stride2"] else 1)
    words = f["rows"] * f["groups_per_row"]
    passes = kernel * -(-kernel // DW_TAPS)
    block = max(passes * words * step, words * chunks * config.subblocks)
    busy = f["blocks"] * block + 12
    return Timing(busy, busy + words * chunks * config.subblocks + 20)


def _attention(f: dict, config: AcceleratorConfig) -> Timing:
    tokens = f["rows"] * f["groups_per_row"] * max(config.pixels, 2)
    if f.get("pool"):
        busy = f["blocks"] * (tokens + config.in_lanes + 10)
    else:
        tile = config.in_lanes * config.in_lanes // min(config.in_lanes, config.out_lanes)
        busy = f["blocks"] ** 2 * (tokens + tile + 10) + f["blocks"] * config.in_lanes
    return Timing(busy, busy)


def _norm(f: dict, config: AcceleratorConfig) -> Timing:
    busy = 2 * -(-f["channels"] // config.requant_channels) + 60
    return Timing(busy, busy)


def _load(f: dict, config: AcceleratorConfig) -> Timing:
    row = max(f["row_bytes"] // config.bus_bytes, f["groups_per_row"] * config.stem_blocks) + 4
    busy = 3 * f["rows"] * row
    return Timing(busy, busy + 40)


def _store(f: dict, config: AcceleratorConfig) -> Timing:
    busy = f["rows"] * f["words_per_row"] * config.pad_word_beats + 20
    return Timing(busy, busy + 40)


_FORMULAS = {
    Engine.MATMUL: _matmul,
    Engine.DEPTHWISE: _depthwise,
    Engine.ATTENTION: _attention,
    Engine.NORM: _norm,
    Engine.LOAD: _load,
    Engine.STORE: _store,
}
