"""How long an instruction takes: the formulas of the engines' docstrings, in one place."""

from dataclasses import dataclass

from compiler.instructions import Instruction
from hw.arithmetic.accumulators import Accumulators
from hw.config import DW_TAPS, KERNEL_ROWS, AcceleratorConfig
from hw.control.descriptors import Engine, record_words, words_for
from hw.engines.mac_array import mac_format

__all__ = ["Timing", "depthwise_passes", "kernel_passes", "timing"]

ISSUE = 6  #: cycles between two instructions of the matmul engine
LOAD_TAIL = 3  #: cycles from the last beat of a stored map to `done`
WRITE_LATENCY = 8  #: cycles from the last data of a burst to its response, assumed of the external memory


@dataclass(frozen=True)
class Timing:
    """Cycles that an instruction keeps its engine, and cycles until its results are there.

    Results of the matmul engine leave it through a drain of their own while the next instruction is under way: `drain`
    cycles, `last_drain` of them for the last output tile.
    """

    busy: int
    latency: int
    drain: int = 0
    last_drain: int = 0


def timing(instruction: Instruction, config: AcceleratorConfig) -> Timing:
    """Estimated cycles of an instruction whose operands and parameters are there."""
    return _FORMULAS[instruction.engine](instruction.fields, config)


def _matmul(f: dict, config: AcceleratorConfig) -> Timing:
    words = f["rows"] * f["groups_per_row"]
    beat = config.slices if f["requant"].get("wide") else 1
    records = record_words(config.out_lanes, config.stream_bits)
    tile_words = 0 if f.get("from_state") else config.tile_words
    rest = (f["in_blocks"] - 1) * max(words, Accumulators.MIN_REVISIT, tile_words)
    subblocks = config.out_lanes // config.requant_channels
    busy, drain = ISSUE, 0
    for tile in range(f["out_tiles"]):
        divisors = f.get("from_state") and tile == 0
        front = max(words, Accumulators.MIN_REVISIT, tile_words + (0 if divisors else records)) + rest
        left = f["out_subblocks"] - (tile - bool(f.get("from_state"))) * subblocks
        last_drain = words if divisors else min(left, subblocks) * max(words * beat, 2)
        busy, drain = busy + front, drain + last_drain
    return Timing(busy, busy + last_drain + mac_format(config).latency + 25 + beat, drain, last_drain)


def kernel_passes(f: dict) -> int:
    """Rows of weights of a channel block of a depthwise instruction: one for each `DW_TAPS` taps of a kernel row."""
    kernel = 5 if f["kernel5"] else 3
    return kernel * -(-kernel // DW_TAPS)


def depthwise_passes(f: dict, config: AcceleratorConfig) -> list[int]:
    """Cycles of each pass over a channel block of a depthwise instruction, the time before the next one included."""
    stride = 2 if f["stride2"] else 1
    chunks = -(-config.pixels // config.dw_pixels)
    words = f["rows"] * f["groups_per_row"]
    one = max(words * max(chunks, stride), Accumulators.MIN_REVISIT)
    if stride == 2 and not f["kernel5"] and config.dw_shares_rows:
        shared = 2 * (f["rows"] + 1) * f["groups_per_row"]  # a cycle for each output row that a word is for
        return [shared + (Accumulators.MIN_REVISIT - 1 if words == 1 else 0), one]
    return [one] * kernel_passes(f)


def _depthwise(f: dict, config: AcceleratorConfig) -> Timing:
    chunks = -(-config.pixels // config.dw_pixels)
    words = f["rows"] * f["groups_per_row"]
    compute = sum(depthwise_passes(f, config))
    drain = words * chunks * config.dw_subblocks
    parameters = (
        record_words(config.in_lanes, config.bus_bits)
        + words_for(8 * config.in_lanes, config.bus_bits)
        + kernel_passes(f) * words_for(DW_TAPS * config.in_lanes * config.dw_weight_bits, config.bus_bits)
    )
    busy = max(f["blocks"] * compute, f["blocks"] * drain + 1, f["blocks"] * parameters + 3)
    return Timing(busy, busy + parameters + (config.dw_subblocks - 1) * words * chunks + 31)


def _attention(f: dict, config: AcceleratorConfig) -> Timing:
    ti, blocks = config.in_lanes, f["blocks"]
    pixels = (f["groups_per_row"] - 1) * config.pixels + f["last_pixels"]
    steps = 1 if f.get("pool") else ti // config.key_group
    tokens = f["rows"] * max(pixels * steps, 2 * f["groups_per_row"])  # a token takes two reads
    if f.get("pool"):
        busy = blocks * (tokens + 1) + (blocks - 1) * max(ti + 1, 5) + ti + 15
        return Timing(busy, busy)
    drains = [ti * (ti // config.state_group + (i % blocks == 0)) for i in range(blocks * blocks)]
    total = 16 + blocks * blocks * (tokens + 2) + sum(max(d + 1, 6) for d in drains[:-1]) + drains[-1]
    # the next head is taken, and fetches, when the last drain begins
    return Timing(total - 16 + max(drains[-1] + 1, 9) - drains[-1], total)


def _norm(f: dict, config: AcceleratorConfig) -> Timing:
    groups = -(-f["channels"] // config.norm_group)
    words = max(record_words(config.norm_group, config.bus_bits), 3)
    busy = groups + 68 + config.act_bits + (groups - 1) * words
    return Timing(busy, busy)


def _load(f: dict, config: AcceleratorConfig) -> Timing:
    if f.get("stored"):
        busy = f["rows"] * f["words_per_row"] * config.pad_word_beats + LOAD_TAIL
        return Timing(busy, busy)
    fill = -(-6 * config.pixels // config.bus_bytes)
    blocks, groups = config.stem_blocks, f["groups_per_row"]
    row = max(-(-6 * config.pixels * groups // config.bus_bytes) + 1, max(fill + 1, blocks) + (groups - 1) * blocks)
    busy = KERNEL_ROWS * f["rows"] * row + fill + 1 - max(fill + 1, blocks) + blocks + 4
    return Timing(busy, busy)


def _store(f: dict, config: AcceleratorConfig) -> Timing:
    beats = f["rows"] * f["words_per_row"] * config.pad_word_beats
    busy = beats + min(beats, 16) + f["rows"].bit_length() + 14 + WRITE_LATENCY
    return Timing(busy, busy)


_FORMULAS = {
    Engine.MATMUL: _matmul,
    Engine.DEPTHWISE: _depthwise,
    Engine.ATTENTION: _attention,
    Engine.NORM: _norm,
    Engine.LOAD: _load,
    Engine.STORE: _store,
}
