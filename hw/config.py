"""The one configuration object of the accelerator: lanes, bit-widths, memories, buses; derived sizes as properties."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from math import ceil

from quant import numerics

__all__ = ["CONFIGS", "AcceleratorConfig", "ConfigError", "Multipliers"]

PADS = 4  #: scratchpads
DW_TAPS = 3  #: horizontal kernel taps that the depthwise engine computes per cycle and pixel
KERNEL_ROWS = 3  #: kernel rows of the stem convolution, which the loader unrolls (im2col)
STEM_TAPS = 9  #: bytes of one kernel row of the stem: 3 pixels of 3 channels
ABI_VERSION = 4  #: changes with every incompatible change of descriptors, registers, or memory layouts


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the field, its value, and the fix."""


class Multipliers(StrEnum):
    """How the engines multiply."""

    PLAIN = "plain"  #: a multiplier per product; for FPGAs with multipliers of 18 x 18 bits
    PACKED = "packed"  #: a multiplier for two products that share a factor; for multipliers of 27 x 18 bits
    LOGIC = "logic"  #: no multiplier blocks
    DSP48E2 = "dsp48e2"  #: packed, as instances of UltraScale+ blocks that hold the product's register too


def _is_power_of_two(x: int) -> bool:
    return x > 0 and x & (x - 1) == 0


def storage_bits(bits: int) -> int:
    """Bits that one element takes in a memory: the next power of two, so that elements never straddle words."""
    return 1 << (bits - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Everything that the generator, the compiler, and the driver need to know about one accelerator.

    Raises `ConfigError` for combinations that cannot be built. Two equal configurations give the same `hash`, which the
    hardware and every program carry.
    """

    name: str = "base"
    pixels: int = 7  #: P, pixels per scratchpad word and per MAC array cycle
    in_lanes: int = 16  #: Ti, input channels per word and cycle; a power of two
    out_lanes: int = 16  #: To, output channels per cycle; a power of two
    dw_pixels: int = 7  #: output pixels per cycle of the depthwise engine, at most P; times Ti channels and 3 taps
    requant_channels: int = 8  #: channels that the MAC array's requantizer takes per cycle (times P lanes)
    dw_requant_channels: int = 8  #: that of the depthwise engine (times dw_pixels lanes), at most Ti
    norm_channels: int = 4  #: channels of LayerNorm per cycle, at most Ti
    act_bits: int = 8  #: activations, unsigned
    weight_bits: int = 8  #: weights, signed and narrow
    state_bits: int = 8  #: linear-attention state, signed and narrow; lives where weights live
    divisor_mantissa_bits: int = 8  #: index bits of the reciprocal table; 0 is Trio-ViT's power-of-two divisor
    table_index_bits: int = 10  #: index bits of the activation tables
    acc_bits: int = 26  #: accumulators; the compiler proves from the weights that they suffice
    acc_depth: int = 32  #: pixel groups that a weight tile serves while it is held; also the widest map, in words
    pad_words: tuple[int, ...] = (4096, 4096, 4096, 4096)  #: words of each scratchpad
    bus_bits: int = 128  #: data width of each AXI4 port
    bus_ports: int = 4  #: AXI4 ports; the weight stream is striped over all of them
    address_bits: int = 40  #: of the AXI4 ports; 25 are enough for a memory of 32 MiB that begins at 0
    stream_bits: int = 512  #: weights that the MAC array can load per cycle from its weight buffer
    weight_buffer_words: int = 512  #: words of `stream_bits` prefetched for the MAC array
    parameter_buffer_words: int = 512  #: words of `bus_bits` prefetched for each small engine
    state_tiles: int = 16  #: Ti x To tiles of attention states that are held at once
    queue_depth: int = 4  #: instructions waiting at each engine, beside the one that is next; not 1
    state_lanes: int = 16  #: attention states that are requantized per cycle, at most Ti, To, and a stream word
    attention_keys: int = 8  #: key channels that meet all Ti value channels per cycle, at most Ti / 2
    multiplier: Multipliers = Multipliers.PACKED  #: the same results in every style
    logic_depthwise: bool = False  #: the depthwise engine multiplies in logic
    logic_engines: bool = False  #: all engines beside the MAC array do, except requantizers and scalers
    logic_requantizers: bool = False  #: requantizers make the second one of their two products in logic, scalers theirs

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "multiplier", Multipliers(self.multiplier))
        except ValueError as error:
            raise ConfigError(f"multiplier = {self.multiplier!r} is not one of {', '.join(Multipliers)}") from error
        for name in ("logic_depthwise", "logic_engines", "logic_requantizers"):
            value = getattr(self, name)
            if value not in (False, True):
                raise ConfigError(f"{name} = {value!r} is not 0 or 1, false or true")
            object.__setattr__(self, name, bool(value))
        self._check_ranges()
        self._check_relations()

    def _check_ranges(self) -> None:
        ranges = {
            "pixels": (1, 32), "in_lanes": (2, 64), "out_lanes": (2, 64), "dw_pixels": (1, 32),
            "requant_channels": (1, 64), "dw_requant_channels": (1, 64), "norm_channels": (1, 64),
            "act_bits": (2, 8), "weight_bits": (2, 8), "state_bits": (2, 8),
            "divisor_mantissa_bits": (0, 10), "table_index_bits": (4, 12), "acc_bits": (16, 32),
            "acc_depth": (8, 256), "bus_bits": (32, 256), "bus_ports": (1, 4), "address_bits": (24, 40),
            "stream_bits": (32, 2048), "weight_buffer_words": (16, 65536), "parameter_buffer_words": (16, 65536),
            "state_tiles": (2, 256),
            "queue_depth": (0, 64), "state_lanes": (1, 64), "attention_keys": (1, 32),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"{name} = {value!r} is not an integer from {low} to {high}")
        powers = (
            "in_lanes", "out_lanes", "requant_channels", "dw_requant_channels", "norm_channels", "acc_depth",
            "bus_bits", "stream_bits", "weight_buffer_words", "parameter_buffer_words", "state_tiles", "state_lanes",
            "attention_keys",
        )  # fmt: skip
        for name in powers:
            if not _is_power_of_two(getattr(self, name)):
                raise ConfigError(f"{name} = {getattr(self, name)} is not a power of two")
        if len(self.pad_words) != PADS or not all(isinstance(n, int) and 16 <= n <= 65535 for n in self.pad_words):
            raise ConfigError(f"pad_words = {self.pad_words!r} is not {PADS} sizes from 16 to 65535 words")

    def _check_relations(self) -> None:
        def refuse(condition: bool, message: str) -> None:
            if condition:
                raise ConfigError(message)

        refuse(self.dw_pixels > self.pixels, f"dw_pixels = {self.dw_pixels} exceeds pixels = {self.pixels}")
        lanes = min(self.in_lanes, self.out_lanes)
        refuse(
            self.requant_channels > lanes,
            f"requant_channels = {self.requant_channels} exceeds in_lanes or out_lanes ({lanes}); use at most {lanes}",
        )
        bus = self.bus_bits * self.bus_ports
        refuse(
            self.stream_bits % bus != 0,
            f"stream_bits = {self.stream_bits} is not a multiple of bus_bits * bus_ports = {bus}",
        )
        # a FIFO of 1 has addresses of no bits, which Verilog lacks
        refuse(self.queue_depth == 1, "queue_depth = 1 makes no FIFO; use 0, or 2 and more")
        refuse(self.bus_ports == 3, "bus_ports = 3 cannot stripe a power-of-two weight stream; use 1, 2, or 4")

    # -- lanes --

    @property
    def operand_bits(self) -> int:
        """Bits of a weight operand of the MAC array, which also multiplies by attention states."""
        return storage_bits(max(self.weight_bits, self.state_bits))

    @property
    def factor_bits(self) -> int:
        """Bits of a weight operand that count: those of a weight or of a state."""
        return max(self.weight_bits, self.state_bits)

    @property
    def dw_weight_bits(self) -> int:
        """Bits that a depthwise weight takes in the parameter stream."""
        return storage_bits(self.weight_bits)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle of the MAC array."""
        return self.pixels * self.in_lanes * self.out_lanes

    @property
    def dw_channels(self) -> int:
        """Channels per cycle of the depthwise engine: those of one scratchpad word."""
        return self.in_lanes

    @property
    def engine_multiplier(self) -> Multipliers:
        """How attention and LayerNorm multiply, scalers apart."""
        return Multipliers.LOGIC if self.logic_engines else self.multiplier

    @property
    def dw_shares_rows(self) -> bool:
        """Whether the depthwise engine, at stride 2, reads the rows once that two output rows of a 3x3 kernel share. It
        does if it takes all pixels of a word at once: then reading bounds it; else the multipliers do."""
        return self.dw_pixels == self.pixels

    @property
    def dw_multiplier(self) -> Multipliers:
        """How the depthwise engine multiplies, its requantizer apart."""
        return Multipliers.LOGIC if self.logic_depthwise else self.engine_multiplier

    @property
    def scaler_multiplier(self) -> Multipliers:
        """How LayerNorm and the attention unit multiply results by 16-bit factors."""
        return Multipliers.LOGIC if self.logic_requantizers else self.multiplier

    @property
    def requantizer_multipliers(self) -> tuple[Multipliers, Multipliers]:
        """How requantizers make their first and their second product; a block makes one of them."""
        block = Multipliers.PACKED if self.multiplier is Multipliers.LOGIC else self.multiplier  # nothing to pack here
        return block, Multipliers.LOGIC if self.logic_requantizers else block

    @property
    def state_group(self) -> int:
        """Attention states that are written per cycle: `state_lanes`, but at most a row of a tile and a stream word."""
        return min(self.state_lanes, self.in_lanes, self.out_lanes, self.stream_bits // self.operand_bits)

    @property
    def key_group(self) -> int:
        """Key channels per cycle of the attention unit: `attention_keys`, but at most half of a token."""
        return min(self.attention_keys, self.in_lanes // 2)

    @property
    def subblocks(self) -> int:
        """Channel groups of the MAC array's requantizer in one scratchpad word."""
        return self.in_lanes // self.requant_channels

    @property
    def dw_group(self) -> int:
        """Channels that the depthwise engine requantizes per cycle, `dw_requant_channels`, but at most a word's."""
        return min(self.dw_requant_channels, self.in_lanes)

    @property
    def dw_subblocks(self) -> int:
        """Such groups in one scratchpad word."""
        return self.in_lanes // self.dw_group

    @property
    def norm_group(self) -> int:
        """Channels of LayerNorm per cycle: `norm_channels`, but at most a word's."""
        return min(self.norm_channels, self.in_lanes)

    @property
    def norm_subblocks(self) -> int:
        """Such groups in one scratchpad word."""
        return self.in_lanes // self.norm_group

    @property
    def write_group(self) -> int:
        """Channels of a scratchpad word that are written together: the smallest group of an engine."""
        return min(self.requant_channels, self.dw_group, self.norm_group)

    @property
    def write_groups(self) -> int:
        """Such groups in one scratchpad word."""
        return self.in_lanes // self.write_group

    @property
    def slices(self) -> int:
        """Scratchpad words that one 16-bit class score is spread over, low bits first."""
        return ceil(numerics.OPERAND_BITS / self.act_bits)

    # -- words and streams --

    @property
    def pad_word_bits(self) -> int:
        """Bits of one scratchpad word: P pixels of Ti channels."""
        return self.pixels * self.in_lanes * self.act_bits

    @property
    def pad_word_beats(self) -> int:
        """Bus beats of one stored scratchpad word."""
        return ceil(self.pad_word_bits / self.bus_bits)

    @property
    def bus_bytes(self) -> int:
        """Bytes per beat of one AXI4 port."""
        return self.bus_bits // 8

    @property
    def tile_words(self) -> int:
        """Stream words of one Ti x To weight tile."""
        return ceil(self.in_lanes * self.out_lanes * self.operand_bits / self.stream_bits)

    @property
    def stem_blocks(self) -> int:
        """Channel blocks of one unrolled kernel row of the stem."""
        return ceil(STEM_TAPS / self.in_lanes)

    # -- identity --

    @property
    def hash(self) -> int:
        """64-bit identity of everything that a program depends on: not name, width of addresses, multiplier styles."""
        document = asdict(self) | {"abi": ABI_VERSION}
        for name in ("name", "address_bits", "multiplier", "logic_depthwise", "logic_engines", "logic_requantizers"):
            del document[name]
        return int.from_bytes(hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()[:8], "little")

    def replace(self, **changes: object) -> "AcceleratorConfig":
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """Text form; `from_json` reads it back."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "AcceleratorConfig":
        """Read `to_json`'s text. Raises `ConfigError` for text that is not a configuration or has unknown fields."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError("a configuration is a JSON object of field names and values")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(document) - known):
            raise ConfigError(f"unknown fields {unknown}; known are {sorted(known)}")
        if "pad_words" in document:
            document["pad_words"] = tuple(document["pad_words"])
        return cls(**document)


#: named sizes; `--config NAME` or a JSON file of fields
CONFIGS = {
    config.name: config
    for config in (
        AcceleratorConfig(),
        # for an ECP5-85F with a slow memory, which more lanes would wait for; activations in 224 KiB
        AcceleratorConfig(
            name="nano", pixels=1, in_lanes=8, out_lanes=8, dw_pixels=1, requant_channels=2, bus_bits=64, bus_ports=1,
            dw_requant_channels=2, norm_channels=1, attention_keys=1, stream_bits=64, acc_depth=128,
            weight_buffer_words=512, pad_words=(8192, 8192, 8192, 4096), state_tiles=32,
            queue_depth=0, state_lanes=1, multiplier=Multipliers.PLAIN, logic_engines=True,
        ),
        # the same for an ECP5-45F; activations in 64 KiB
        AcceleratorConfig(
            name="pico", pixels=1, in_lanes=4, out_lanes=8, dw_pixels=1, requant_channels=1, bus_bits=64, bus_ports=1,
            dw_requant_channels=1, norm_channels=1, attention_keys=1, stream_bits=64, acc_depth=128,
            weight_buffer_words=256, parameter_buffer_words=256, pad_words=(4096,) * 4, state_tiles=32,
            queue_depth=0, state_lanes=1, multiplier=Multipliers.PLAIN, logic_engines=True,
        ),
        # the least, for an ECP5-25F; activations in 48 KiB
        AcceleratorConfig(
            name="femto", pixels=1, in_lanes=2, out_lanes=4, dw_pixels=1, requant_channels=1, bus_bits=32, bus_ports=1,
            dw_requant_channels=1, norm_channels=1, attention_keys=1, address_bits=25, stream_bits=32, acc_depth=64,
            weight_buffer_words=256, parameter_buffer_words=64, pad_words=(8192, 8192, 4096, 4096), state_tiles=64,
            queue_depth=0, state_lanes=1, multiplier=Multipliers.PLAIN, logic_depthwise=True,
        ),
        # fills a ZCU102: twice the output lanes of `base`, with their requantizers, and twice the bus
        AcceleratorConfig(
            name="max", out_lanes=32, requant_channels=16, bus_bits=256, stream_bits=1024, queue_depth=16,
            multiplier=Multipliers.DSP48E2,
        ),
        # the same for networks of 4 bits: four products in a multiplier, again twice the lanes
        AcceleratorConfig(
            name="max4", out_lanes=64, requant_channels=16, act_bits=4, weight_bits=4, state_bits=4, bus_bits=256,
            stream_bits=2048, pad_words=(8192,) * 4, state_tiles=32, queue_depth=16,
            multiplier=Multipliers.DSP48E2, logic_engines=True,
        ),
    )
}  # fmt: skip
