"""What the quantizer may do: widths, and one choice for every technique, so that each can be measured on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from quant.numerics import EXP_INDEX_BITS, STREAM_BITS
from quant.observers import OBSERVERS

__all__ = ["QuantizerConfig", "Reconstruction"]

#: of the input of depthwise filters: one scale; Trio-ViT's channel-wise migration; a scale and zero-point per channel
DepthwiseInput = Literal["tensor", "migration", "channel"]
#: of the input of the pointwise filters behind a depthwise one: one scale; Trio-ViT's filter-wise shifting; a scale and
#: zero-point per channel
SecondPointwiseInput = Literal["tensor", "shift", "channel"]
#: of other maps: one scale, or a scale per channel
Scales = Literal["tensor", "channel"]
#: of the attention's states and row sums: one scale per input tensor, or a scale per head; of the softmax's
#: probabilities: codes for 0 to 1, or for each head those that occur
StateScales = Literal["tensor", "head"]
#: of the attention: the normalised reciprocal of the exact divisor, or that of its 8-bit code (no hardware does this)
Divisor = Literal["reciprocal", "uniform"]

_CHOICES = {
    "observer": OBSERVERS,
    "depthwise_input": get_args(DepthwiseInput),
    "second_pointwise_input": get_args(SecondPointwiseInput),
    "pointwise_input": get_args(Scales),
    "attention_input": get_args(Scales),
    "attention_state": get_args(StateScales),
    "divisor": get_args(Divisor),
}
LAYER_BITS = (2, 8)
_RANGES = {
    "weight_bits": LAYER_BITS,
    "act_bits": LAYER_BITS,
    "state_bits": (2, 8),
    "divisor_mantissa_bits": (0, 10),
    "table_index_bits": (4, 12),
    "exp_index_bits": (0, 10),
    "stream_bits": (8, 16),
    "batch_size": (1, 4096),
}


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How blocks are reconstructed: see `quant.reconstruction`. Learning rates are Adam's, and fall to 0.

    Raises ValueError for values out of range.
    """

    iterations: int = 600  #: of every block
    batch_size: int = 32  #: images per iteration; fewer where maps are large
    rounding_rate: float = 1e-1
    bias_rate: float = 5e-2
    step_rate: float = 5e-3
    rounding_weight: float = 0.1  #: of the penalty for shares between 0 and 1, beside the error relative to that before
    warm_up: float = 0.2  #: part of the iterations without that penalty
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not 1 or more")
        for name in ("rounding_rate", "bias_rate", "step_rate", "rounding_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)!r} is negative")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up = {self.warm_up!r} is not at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """What the codes look like and how their ranges are chosen. Widths must match the accelerator's.

    The default is the best we know; `plain` and `trio_vit` are what it is compared with. Raises ValueError for values
    out of range.
    """

    weight_bits: int = 8
    act_bits: int = 8
    layer_weight_bits: Mapping[str, int] = field(default_factory=dict)  #: of these nodes, where not `weight_bits`
    layer_act_bits: Mapping[str, int] = field(default_factory=dict)  #: of these tensors, where not `act_bits`
    state_bits: int = 8  #: of the linear-attention state and row sums
    divisor_mantissa_bits: int = 8  #: index bits of the attentions' reciprocals; 0 is Trio-ViT's power-of-two divisor
    table_index_bits: int = 10  #: index bits of the activation tables
    exp_index_bits: int = EXP_INDEX_BITS  #: index bits of the softmax's table of powers of two
    stream_bits: int = STREAM_BITS  #: signed codes of what LayerNorms and residual sums of transformers read
    observer: str = "mse"  #: rule that turns watched values into ranges; see `quant.observers`
    depthwise_input: DepthwiseInput = "channel"  #: maps that only depthwise filters read
    second_pointwise_input: SecondPointwiseInput = "channel"  #: Hardswish of depthwise filters, read by pointwise ones
    pointwise_input: Scales = "channel"  #: every other map that only filters and residual sums read
    attention_input: Scales = "channel"  #: q, k, and v
    attention_state: StateScales = "head"
    divisor: Divisor = "reciprocal"
    bias_correction: bool = True  #: take the mean errors that codes cause out of the biases
    reconstruction: Reconstruction | None = None  #: adapt rounding, biases, and steps of each block; minutes
    batch_size: int = 32  #: calibration images at a time

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _RANGES}
        values |= {f"layer_weight_bits[{name}]": bits for name, bits in self.layer_weight_bits.items()}
        values |= {f"layer_act_bits[{name}]": bits for name, bits in self.layer_act_bits.items()}
        for name, value in values.items():
            low, high = _RANGES.get(name, LAYER_BITS)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} = {value!r} is not an integer from {low} to {high}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(choices)}")

    def weight_bits_of(self, name: str) -> int:
        """Of a convolution's weights."""
        return self.layer_weight_bits.get(name, self.weight_bits)

    def act_bits_of(self, name: str) -> int:
        """Of a node's output."""
        return self.layer_act_bits.get(name, self.act_bits)

    @classmethod
    def plain(cls, **changes: object) -> QuantizerConfig:
        """One scale per tensor, exact divisors: the baseline of Trio-ViT, Table V. `changes` are further fields."""
        settings = {
            "depthwise_input": "tensor",
            "second_pointwise_input": "tensor",
            "pointwise_input": "tensor",
            "attention_input": "tensor",
            "attention_state": "tensor",
            "bias_correction": False,
        }
        return cls(**{**settings, **changes})

    @classmethod
    def trio_vit(cls, **changes: object) -> QuantizerConfig:
        """Trio-ViT's recipe: migration, shifting, power-of-two divisors. `changes` are further fields.

        It differs from the public code where that has faults; see docs/decisions/trio-vit-recipe.md.
        """
        settings = {"depthwise_input": "migration", "second_pointwise_input": "shift", "divisor_mantissa_bits": 0}
        return cls.plain(**{**settings, **changes})
