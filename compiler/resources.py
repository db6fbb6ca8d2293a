"""What an accelerator takes of an FPGA, within a millisecond and without RTL.

Every unit of the accelerator has features, sizes that follow from the configuration. Cells are sums of features times
coefficients, which `compiler.calibration` fits to open synthesis and keeps in resources.json, with the errors of the
fit. Multipliers are counted by features that leave nothing to fit; the rest are estimates.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from hw.arithmetic.cascade import CascadeFormat
from hw.arithmetic.dot_product import DotProductFormat
from hw.config import DW_TAPS, AcceleratorConfig, Multipliers
from hw.engines.attention import outer_format
from hw.engines.depthwise import lane_format
from hw.engines.mac_array import mac_format
from quant import numerics

__all__ = ["KINDS", "TABLE", "UNITS", "Estimate", "ResourceError", "estimate_resources", "features", "hardware_digest"]

#: LUT sites (carry chains and LUT RAM count where they take them), flip-flops, memory blocks, multipliers
KINDS = ("lut", "flip_flop", "block_ram", "dsp")
TABLE = Path(__file__).with_name("resources.json")

#: block RAM of each family: the words that a block holds at each width
XILINX_BLOCK = {72: 512, 36: 1024, 18: 2048, 9: 4096, 4: 8192, 2: 16384, 1: 32768}
SMALL_BLOCK = {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384}
BLOCKS = {"xcup": XILINX_BLOCK, "xc7": XILINX_BLOCK, "ecp5": SMALL_BLOCK, "gowin": SMALL_BLOCK}
LUT_RAM_WORDS = 64  #: memories up to this depth are made of LUTs

Features = dict[str, float]


class ResourceError(ValueError):
    """A target or a style of which nothing has been measured; the message says what to run."""


@dataclass(frozen=True)
class Estimate:
    """Resources of a configuration, and how far off such figures have been."""

    target: str
    units: dict[str, dict[str, float]]  #: by unit, by kind
    #: by kind: mean relative error on whole accelerators that the fit had not seen; None: too few were measured to know
    errors: dict[str, float | None]
    stale: bool  #: the hardware has changed since it was measured

    @property
    def error_texts(self) -> dict[str, str]:
        """`errors` for people."""
        return {kind: "unknown" if error is None else f"{error:.1%}" for kind, error in self.errors.items()}

    @property
    def origin(self) -> str:
        """What was measured, for people."""
        if self.stale:
            return "measured on another version of the hardware; `vitsmith calibrate` measures this one"
        return "measured on this version of the hardware"

    @property
    def total(self) -> dict[str, float]:
        """Of the whole accelerator, by kind."""
        return {kind: sum(unit[kind] for unit in self.units.values()) for kind in KINDS}


def estimate_resources(config: AcceleratorConfig, target: str) -> Estimate:
    """Estimate each unit's resources on a family of FPGAs. Raises `ResourceError` if it was not calibrated."""
    table = _table()
    if target not in table["coefficients"]:
        raise ResourceError(f"no resources of '{target}' were measured; known are {', '.join(table['coefficients'])}")
    coefficients = table["coefficients"][target]
    units: dict[str, dict[str, float]] = {unit: {} for unit in UNITS}
    for kind in KINDS:
        for unit in UNITS:
            units[unit][kind] = _evaluate(coefficients[kind][unit], features(config, target, kind, unit), target)
    return Estimate(target, units, table["errors"][target], table["hardware"][target] != hardware_digest())


@cache
def hardware_digest() -> str:
    """Hash of the sources of the accelerator, by which measurements tell whether they are of today's."""
    files = sorted((TABLE.parent.parent / "hw").rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _evaluate(coefficients: Features, values: Features, target: str) -> float:
    if missing := values.keys() - coefficients.keys():
        raise ResourceError(f"nothing was measured of {sorted(missing)} on {target}; `vitsmith calibrate` does")
    return sum(coefficients[name] * value for name, value in values.items())


@cache
def _table() -> dict:
    return json.loads(TABLE.read_text())


def features(config: AcceleratorConfig, target: str, kind: str, unit: str) -> Features:
    """What a unit's resources of one kind depend on, by name."""
    if kind == "block_ram":
        return _MEMORIES[unit](config, BLOCKS[target]) if unit in _MEMORIES else {"one": 1}
    if kind == "dsp":
        return _MULTIPLIERS[unit](config) if unit in _MULTIPLIERS else {"one": 1}
    return UNITS[unit](config)


# -- LUTs and flip-flops --


def _product_bits(style: Multipliers, products: int, first: int, second: int) -> Features:
    """Adder trees grow with the bits of a product; multipliers in logic with the bits of the partial products."""
    bits = first * second if style == Multipliers.LOGIC else first + second
    return {f"product bits, {style}": products * bits}


def _mac_array(c: AcceleratorConfig) -> Features:
    lanes = _product_bits(c.multiplier, c.macs, c.act_bits, c.operand_bits)
    return {**lanes, "word bits": c.pad_word_bits, "tile bits": c.in_lanes * c.out_lanes * c.operand_bits}


def _depthwise(c: AcceleratorConfig) -> Features:
    lanes = _product_bits(c.engine_multiplier, _tap_products(c), c.act_bits, c.weight_bits)
    return {**lanes, "one": 1, "word bits": c.pad_word_bits, "output bits": c.dw_pixels * c.in_lanes * c.act_bits}


def _attention(c: AcceleratorConfig) -> Features:
    products = _product_bits(c.engine_multiplier, c.in_lanes * c.key_group, c.act_bits, c.act_bits)
    return {**products, "one": 1, "states per cycle": c.state_group, "word bits": c.pad_word_bits}


def _lane_logic(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig], Features]:
    """Of a requantizer, and of what feeds it words."""
    return lambda c: {
        "lanes": count(c),
        "word bits": c.pad_word_bits,
        **({"lanes in logic": count(c)} if c.logic_requantizers else {}),
    }


def _tap_products(c: AcceleratorConfig) -> int:
    return c.dw_pixels * c.dw_channels * DW_TAPS


def _matmul_lanes(c: AcceleratorConfig) -> int:
    return c.pixels * c.requant_channels


def _depthwise_lanes(c: AcceleratorConfig) -> int:
    return c.dw_pixels * c.dw_group


def _norm_lanes(c: AcceleratorConfig) -> int:
    return c.norm_group


#: features of LUTs and flip-flops, by unit
UNITS: dict[str, Callable[[AcceleratorConfig], Features]] = {
    "control": lambda c: {"one": 1, "bus bits": c.bus_bits},
    "streams": lambda c: {"one": 1, "bus bits": c.bus_bits * (c.bus_ports + 2)},
    "scratchpads": lambda c: {"word bits": c.pad_word_bits},
    "states": lambda c: {"one": 1, "stored bits": _small(c.state_tiles * c.tile_words) * c.stream_bits},
    "loader": lambda c: {"one": 1, "word bits": c.pad_word_bits},
    "storer": lambda c: {"one": 1, "word bits": c.pad_word_bits},
    "matmul": lambda c: {"one": 1, "word bits": c.pad_word_bits, "pixels": c.pixels},
    "MAC array": _mac_array,
    "accumulators": lambda c: {"sum bits": c.pixels * c.out_lanes * c.acc_bits},
    "requantizer": _lane_logic(_matmul_lanes),
    "depthwise": _depthwise,
    "depthwise accumulators": lambda c: {"sum bits": c.dw_pixels * c.in_lanes * c.acc_bits},
    "depthwise requantizer": _lane_logic(_depthwise_lanes),
    "attention": _attention,
    "norm": lambda c: {"one": 1, "lanes": _norm_lanes(c), "word bits": c.pad_word_bits},
    "norm requantizer": _lane_logic(_norm_lanes),
}

# -- multipliers --


def _dot_multipliers(form: DotProductFormat | CascadeFormat, copies: int = 1) -> Features:
    return {"multipliers": copies * form.inputs * form.packing.multipliers(form.counts)}


def _depthwise_multipliers(c: AcceleratorConfig) -> Features:
    return {} if c.logic_engines else _dot_multipliers(lane_format(c), c.dw_channels)


def _attention_multipliers(c: AcceleratorConfig) -> Features:
    if c.logic_engines:
        return {}
    products = outer_format(c).multipliers((c.in_lanes, c.key_group))
    return {"multipliers": products + c.state_group + 3}  # one more for the sums, two for addresses


def _lane_multipliers(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig], Features]:
    """Of a requantizer, for its first and its second product."""
    return lambda c: {"lanes": count(c), **({} if c.logic_requantizers else {"second products": count(c)})}


def _norm_multipliers(c: AcceleratorConfig) -> Features:
    return {} if c.logic_engines else {"lanes": _norm_lanes(c)}


_MULTIPLIERS: dict[str, Callable[[AcceleratorConfig], Features]] = {
    "MAC array": lambda c: _dot_multipliers(mac_format(c)),
    "requantizer": _lane_multipliers(_matmul_lanes),
    "depthwise": _depthwise_multipliers,
    "depthwise requantizer": _lane_multipliers(_depthwise_lanes),
    "attention": _attention_multipliers,
    "norm": _norm_multipliers,
    "norm requantizer": _lane_multipliers(_norm_lanes),
}

# -- memories --


def _small(words: int) -> int:
    """Words, if they are kept in LUTs."""
    return words if words <= LUT_RAM_WORDS else 0


def _blocks(width: int, words: int, block: dict[int, int]) -> int:
    """Blocks of one memory, in the shape that takes the fewest."""
    if words <= LUT_RAM_WORDS:
        return 0
    return min(ceil(width / w) * ceil(words / depth) for w, depth in block.items())


def _pads(c: AcceleratorConfig, block: dict[int, int]) -> Features:
    granule = c.write_group * c.act_bits  # written at once
    return {"blocks": c.pad_word_bits // granule * sum(_blocks(granule, words, block) for words in c.pad_words)}


def _streams(c: AcceleratorConfig, block: dict[int, int]) -> Features:
    small = 2 * _blocks(c.bus_bits, c.parameter_buffer_words, block)
    port = c.stream_bits // c.bus_ports
    return {"blocks": small + c.bus_ports * _blocks(port, c.weight_buffer_words, block)}


def _tables(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig, dict[int, int]], Features]:
    banks = 2
    return lambda c, block: {"blocks": count(c) * _blocks(numerics.OPERAND_BITS, banks << c.table_index_bits, block)}


def _sums(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig, dict[int, int]], Features]:
    banks = 2
    return lambda c, block: {"blocks": count(c) * _blocks(c.acc_bits, banks * c.acc_depth, block)}


_MEMORIES: dict[str, Callable[[AcceleratorConfig, dict[int, int]], Features]] = {
    "scratchpads": _pads,
    "streams": _streams,
    "states": lambda c, block: {"blocks": _blocks(c.stream_bits, c.state_tiles * c.tile_words, block)},
    "requantizer": _tables(_matmul_lanes),
    "depthwise requantizer": _tables(_depthwise_lanes),
    "norm requantizer": _tables(_norm_lanes),
    "accumulators": _sums(lambda c: c.pixels * c.out_lanes),
    "depthwise accumulators": _sums(lambda c: c.dw_pixels * c.in_lanes),
}
