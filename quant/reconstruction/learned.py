"""What reconstruction hands over to the quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from quant.scales import AffineFormat

__all__ = ["Learned", "LearnedConv"]


@dataclass(frozen=True)
class LearnedConv:
    """Weights and biases of a convolution.

    Parameters
    ----------
    codes : int8 (O, C/groups, k, k).
    weight : float64 like `codes`, the real values that they stand for.
    bias : float64 (O,), real.
    """

    codes: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Learned:
    """What reconstruction found, by node: convolutions, formats of outputs, units of attention states and row sums."""

    convs: Mapping[str, LearnedConv] = field(default_factory=dict)
    formats: Mapping[str, AffineFormat] = field(default_factory=dict)
    units: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
