"""What quantization-aware training may do: widths, granularity of scales, and one switch for every technique."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["QatConfig"]

#: of maps that convolutions read: one scale, or one times 1, 1/2, 1/4, or 1/8 for each channel
MapScales = Literal["tensor", "groups"]
#: of q, k, v, and probabilities: one scale each, or one for every head
HeadScales = Literal["tensor", "head"]
#: of queries and keys, see `quant.graph.FloatRectify`
Rectify = Literal[None, "centred", "rms"]

_CHOICES = {"map_scales": get_args(MapScales), "head_scales": get_args(HeadScales), "rectify": get_args(Rectify)}
_BITS = (2, 8)


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """How a network is quantized while it learns.

    Raises ValueError for values out of range.

    Parameters
    ----------
    bits : of weights, and of maps that convolutions and attention read.
    edge_bits : of the weights of the first and the last layer, and of what the last one reads.
    map_scales, head_scales, rectify : see above.
    teacher : half of the loss goes by the class that the float twin names (DeiT's hard distillation).
    guidance : weight of the difference between the similarity matrices of the network and of its float twin.
    stream_images : training images that give streams and class scores their scales, where training goes through the
        integer operations, so that it sees them; otherwise 0.
    """

    bits: int = 4
    edge_bits: int = 8
    map_scales: MapScales = "tensor"
    head_scales: HeadScales = "head"
    rectify: Rectify = None
    teacher: bool = False
    guidance: float = 0.0
    stream_images: int = 0

    def __post_init__(self) -> None:
        for name in ("bits", "edge_bits"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not _BITS[0] <= value <= _BITS[1]:
                raise ValueError(f"{name} = {value!r} is not an integer from {_BITS[0]} to {_BITS[1]}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(map(str, choices))}")
        if self.guidance < 0:
            raise ValueError(f"guidance = {self.guidance!r} is negative")
        if not isinstance(self.stream_images, int) or self.stream_images < 0:
            raise ValueError(f"stream_images = {self.stream_images!r} is not a number of images")
