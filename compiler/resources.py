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
from hw.arithmetic.requantizer import ROW_BITS
from hw.config import DW_TAPS, AcceleratorConfig, Multipliers
from hw.engines.attention import outer_format
from hw.engines.depthwise import lane_format
from hw.engines.mac_array import mac_format
from hw.engines.norm import CHANNEL_BITS
from quant import numerics

__all__ = [
    "KINDS",
    "TABLE",
    "UNITS",
    "Estimate",
    "ResourceError",
    "estimate_resources",
    "features",
    "hardware_digest",
    "unmeasured",
]

#: LUT sites (carry chains and LUT RAM count where they take them), flip-flops, memory blocks, multipliers
KINDS = ("lut", "flip_flop", "block_ram", "dsp")
TABLE = Path(__file__).with_name("resources.json")
SMALL_WORDS = 64  #: memories up to this depth cost LUTs


@dataclass(frozen=True)
class Family:
    """What memories and products take of a family of FPGAs."""

    block_share: float  #: of a memory block, that holds 18 Kbit and can be used alone
    lut_words: int  #: memories up to this depth are made of LUTs
    lut_sums: int  #: likewise memories of complete sums, behind accumulators
    ports: tuple[int, int]  #: bits of the signed factors of a multiplier


#: words that 18 Kbit of block RAM hold, by width
BLOCK_WORDS = {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384}
FAMILIES = {
    "xcup": Family(0.5, 64, 128, (27, 18)),
    "xc7": Family(0.5, 64, 128, (25, 18)),
    "ecp5": Family(1, 32, 32, (18, 18)),
    "gowin": Family(1, 32, 32, (18, 18)),
}

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
    if missing := unmeasured(values, coefficients):
        raise ResourceError(f"nothing was measured of {missing} on {target}; `vitsmith calibrate` does")
    return sum(coefficients[name] * value for name, value in values.items() if value)


def unmeasured(values: Features, coefficients: Features) -> list[str]:
    """Features of a configuration of which no measured accelerator had any."""
    return sorted(name for name, value in values.items() if value and name not in coefficients)


@cache
def _table() -> dict:
    return json.loads(TABLE.read_text())


def features(config: AcceleratorConfig, target: str, kind: str, unit: str) -> Features:
    """What a unit's resources of one kind depend on, by name."""
    if kind == "block_ram":
        return _MEMORIES[unit](config, FAMILIES[target]) if unit in _MEMORIES else {"one": 1}
    if kind == "dsp":
        return _MULTIPLIERS[unit](config, FAMILIES[target]) if unit in _MULTIPLIERS else {"one": 1}
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
    lanes = _product_bits(c.dw_multiplier, _tap_products(c), c.act_bits, c.weight_bits)
    return {**lanes, "one": 1, "word bits": c.pad_word_bits, "output bits": c.dw_pixels * c.in_lanes * c.act_bits}


def _attention(c: AcceleratorConfig) -> Features:
    products = _product_bits(c.engine_multiplier, c.in_lanes * c.key_group, c.act_bits, c.act_bits)
    scalers = _in_logic("scalers", c.state_group, c)
    return {**products, **scalers, "one": 1, "states per cycle": c.state_group, "word bits": c.pad_word_bits}


def _norm(c: AcceleratorConfig) -> Features:
    return {"one": 1, "lanes": _norm_lanes(c), **_in_logic("scalers", _norm_lanes(c), c), "word bits": c.pad_word_bits}


def _accumulators(lanes: int, c: AcceleratorConfig) -> Features:
    """Adders, and sums that are kept in LUTs."""
    return {"sum bits": lanes * c.acc_bits, "stored bits": lanes * c.acc_bits * _small(c.acc_depth)}


def _in_logic(what: str, count: int, c: AcceleratorConfig) -> Features:
    return {f"{what} in logic": count} if c.logic_requantizers else {}


def _lane_logic(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig], Features]:
    """Of a requantizer, and of what feeds it words."""
    return lambda c: {
        "lanes": count(c),
        "word bits": c.pad_word_bits,
        **_in_logic("lanes", count(c), c),
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
    "control": lambda c: {"one": 1, "bus bits": c.bus_bits, "queues": c.queue_depth > 0},
    "streams": lambda c: {"one": 1, "bus bits": c.bus_bits * (c.bus_ports + 2)},
    "scratchpads": lambda c: {"word bits": c.pad_word_bits},
    "states": lambda c: {"one": 1, "stored bits": _small(c.state_tiles * c.tile_words) * c.stream_bits},
    "loader": lambda c: {"one": 1, "word bits": c.pad_word_bits},
    "storer": lambda c: {"one": 1, "word bits": c.pad_word_bits},
    "matmul": lambda c: {"one": 1, "word bits": c.pad_word_bits, "pixels": c.pixels},
    "MAC array": _mac_array,
    "accumulators": lambda c: _accumulators(c.pixels * c.out_lanes, c),
    "requantizer": _lane_logic(_matmul_lanes),
    "depthwise": _depthwise,
    "depthwise accumulators": lambda c: _accumulators(c.dw_pixels * c.in_lanes, c),
    "depthwise requantizer": _lane_logic(_depthwise_lanes),
    "attention": _attention,
    "norm": _norm,
    "norm requantizer": _lane_logic(_norm_lanes),
}

# -- multipliers --

#: bits of a factor above which plain multipliers are cut, on all families; see `hw.arithmetic.multiplier`
PLAIN_PORT = 18


def _dot_multipliers(form: DotProductFormat | CascadeFormat, copies: int = 1) -> Features:
    return {"multipliers": copies * form.inputs * form.packing.multipliers(form.counts)}


def _product_blocks(bits: int, c: AcceleratorConfig, family: Family) -> int:
    """Multipliers of a product of a signed number of so many bits and one that fits the narrow port."""
    port = PLAIN_PORT if c.multiplier is Multipliers.PLAIN else family.ports[0]
    return ceil((bits - 1) / (port - 1))


def _depthwise_multipliers(c: AcceleratorConfig, _family: Family) -> Features:
    return {} if c.dw_multiplier is Multipliers.LOGIC else _dot_multipliers(lane_format(c), c.dw_channels)


def _attention_multipliers(c: AcceleratorConfig, family: Family) -> Features:
    """Of the products of codes, of two for addresses, and of the scalers of states."""
    products = 0 if c.logic_engines else outer_format(c).multipliers((c.in_lanes, c.key_group)) + 2
    scalers = 0 if c.logic_requantizers else c.state_group * _product_blocks(c.acc_bits, c, family)
    return {"multipliers": products + scalers}


def _lane_multipliers(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig, Family], Features]:
    """Of a requantizer, for its first and its second product."""

    def multipliers(c: AcceleratorConfig, family: Family) -> Features:
        first = _product_blocks(max(c.acc_bits, numerics.BIAS_BITS) + 1, c, family)
        return {"first products": count(c) * first, **({} if c.logic_requantizers else {"second products": count(c)})}

    return multipliers


def _norm_multipliers(c: AcceleratorConfig, family: Family) -> Features:
    """Of the products of codes and channels, and of the scalers of these, by the reciprocal root."""
    scaler = 0 if c.logic_requantizers else _product_blocks(c.act_bits + CHANNEL_BITS + 1, c, family)
    return {"multipliers": _norm_lanes(c) * (scaler if c.logic_engines else 1 + scaler)}


_MULTIPLIERS: dict[str, Callable[[AcceleratorConfig, Family], Features]] = {
    "MAC array": lambda c, _family: _dot_multipliers(mac_format(c)),
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
    return words if words <= SMALL_WORDS else 0


def _blocks(width: int, words: int, family: Family) -> float:
    """Blocks of one memory, in the shape that takes the fewest."""
    if words <= family.lut_words:
        return 0
    return family.block_share * min(ceil(width / w) * ceil(words / depth) for w, depth in BLOCK_WORDS.items())


def _pads(c: AcceleratorConfig, family: Family) -> Features:
    granule = c.write_group * c.act_bits  # written at once
    return {"blocks": c.pad_word_bits // granule * sum(_blocks(granule, words, family) for words in c.pad_words)}


def _streams(c: AcceleratorConfig, family: Family) -> Features:
    small = 2 * _blocks(c.bus_bits, c.parameter_buffer_words, family)
    port = c.stream_bits // c.bus_ports
    return {"blocks": small + c.bus_ports * _blocks(port, c.weight_buffer_words, family)}


def _tables(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig, Family], Features]:
    banks = 2
    bits = banks * numerics.OPERAND_BITS
    return lambda c, family: {"blocks": count(c) * _blocks(ROW_BITS, (bits << c.table_index_bits) // ROW_BITS, family)}


def _sums(count: Callable[[AcceleratorConfig], int]) -> Callable[[AcceleratorConfig, Family], Features]:
    """Of sums in the making, and of two banks of complete ones."""
    banks = 2

    def blocks(c: AcceleratorConfig, family: Family) -> Features:
        made = 0 if _small(c.acc_depth) else _blocks(c.acc_bits, c.acc_depth, family)
        complete = banks * c.acc_depth
        kept = _blocks(c.acc_bits, complete, family) if complete > family.lut_sums else 0
        return {"blocks": count(c) * (made + kept)}

    return blocks


_MEMORIES: dict[str, Callable[[AcceleratorConfig, Family], Features]] = {
    "scratchpads": _pads,
    "streams": _streams,
    "states": lambda c, family: {"blocks": _blocks(c.stream_bits, c.state_tiles * c.tile_words, family)},
    "requantizer": _tables(_matmul_lanes),
    "depthwise requantizer": _tables(_depthwise_lanes),
    "norm requantizer": _tables(_norm_lanes),
    "accumulators": _sums(lambda c: c.pixels * c.out_lanes),
    "depthwise accumulators": _sums(lambda c: c.dw_pixels * c.in_lanes),
}
