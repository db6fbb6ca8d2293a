"""The operations of float graphs.

Tensors are maps (N, C, H, W). Tokens are pixels: those of a DeiT a map of one row, class token first, those of a Swin a
map as they lie in the image; a linear layer on tokens is a 1x1 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.models.swin import merge_patches, merge_windows, shift_mask, split_windows

__all__ = [
    "INPUT",
    "Activation",
    "FloatAttention",
    "FloatConv",
    "FloatLayerNorm",
    "FloatMerge",
    "FloatNode",
    "FloatPool",
    "FloatRectify",
    "FloatSelect",
    "FloatSoftmaxAttention",
    "FloatTokens",
]

INPUT = "input"

#: hardswish and gelu need a table; relu6 is what codes do that stand for 0 to 6 at most and clamp
Activation = Literal[None, "hardswish", "relu6", "gelu"]

_ACTIVATIONS = {"hardswish": F.hardswish, "relu6": F.relu6, "gelu": F.gelu}


def _activate(x: Tensor, activation: Activation) -> Tensor:
    return x if activation is None else _ACTIVATIONS[activation](x)


@dataclass(frozen=True, kw_only=True)
class FloatNode:
    """One operation on float tensors (N, C, H, W); `inputs` and `name` are those of the integer node."""

    name: str
    inputs: tuple[str, ...]

    def run(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Compute "output" and the inner tensors that quantization has to know about."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FloatConv(FloatNode):
    """Convolution, then an activation function or the addition of the second input.

    Inner tensor: "linear", before those.
    """

    weight: Tensor  #: (O, C/groups, k, k)
    bias: Tensor  #: (O,)
    stride: int = 1
    groups: int = 1
    activation: Activation = None
    padding: Literal[None, "same"] = "same"  #: by k // 2 pixels on all sides, or none

    @property
    def is_depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups > 1 and self.weight.shape[1] == 1 and self.groups == self.weight.shape[0]

    def run(self, x: Tensor, residual: Tensor | None = None) -> dict[str, Tensor]:
        padding = self.weight.shape[-1] // 2 if self.padding == "same" else 0
        linear = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        output = _activate(linear, self.activation)
        return {"linear": linear, "output": output if residual is None else output + residual}


@dataclass(frozen=True, kw_only=True)
class FloatAttention(FloatNode):
    """Linear attention on qkv tensors."""

    head_dim: int
    epsilon: float

    def run(self, *inputs: Tensor) -> dict[str, Tensor]:
        x = torch.cat(inputs, 1)
        n, _, h, w = x.shape
        q, k, v = x.reshape(n, -1, 3, self.head_dim, h * w).unbind(2)
        q, k = q.relu(), k.relu()
        state, sums = k @ v.transpose(-1, -2), k.sum(-1)
        quotient = (state.transpose(-1, -2) @ q) / (sums.unsqueeze(-2) @ q + self.epsilon)
        return {"output": quotient.reshape(n, -1, h, w)}


@dataclass(frozen=True, kw_only=True)
class FloatPool(FloatNode):
    """Mean over all pixels."""

    def run(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": x.mean((2, 3), keepdim=True)}


@dataclass(frozen=True, kw_only=True)
class FloatLayerNorm(FloatNode):
    """LayerNorm over the channels of every pixel, then an activation function. Inner tensor: "linear", between them."""

    weight: Tensor  #: (C,)
    bias: Tensor  #: (C,)
    epsilon: float
    activation: Literal[None, "hardswish"] = None

    def run(self, x: Tensor) -> dict[str, Tensor]:
        linear = F.layer_norm(x.movedim(1, -1), (x.shape[1],), self.weight, self.bias, self.epsilon).movedim(-1, 1)
        return {"linear": linear, "output": _activate(linear, self.activation)}


@dataclass(frozen=True, kw_only=True)
class FloatTokens(FloatNode):
    """Patches (N, C, H, W) become tokens (N, C, 1, K + H * W): K learned ones, the patches in raster order, and to
    each its position."""

    tokens: Tensor  #: (C, K)
    positions: Tensor  #: (C, K + H * W)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        tokens = torch.cat((self.tokens.expand(len(x), -1, -1), x.flatten(2)), 2)
        return {"output": (tokens + self.positions)[:, :, None]}


@dataclass(frozen=True, kw_only=True)
class FloatRectify(FloatNode):
    """Information rectification of queries and keys: the q and k channels of a qkv map (N, 3 C, H, W), laid out as
    `FloatSoftmaxAttention` reads them, are normalised over each head of each token; v is passed on.

    With x the d channels of a head::

        centred: gain * (x - mean(x)) / sqrt(variance(x) + epsilon) + shift
        else:    gain * x / sqrt(mean(x^2) + epsilon) + shift

    The second form is the first one where mean(x) = 0, which weights can see to.
    """

    heads: int
    gain: Tensor  #: (2 C,), of q, then k
    shift: Tensor  #: (2 C,)
    epsilon: float
    centred: bool = True

    def run(self, x: Tensor) -> dict[str, Tensor]:
        channels = len(self.gain)
        n, _, h, w = x.shape
        heads = x[:, :channels].reshape(n, 2 * self.heads, -1, h, w)
        if self.centred:
            heads = heads - heads.mean(2, keepdim=True)
        unit = heads * torch.rsqrt(heads.square().mean(2, keepdim=True) + self.epsilon)
        rectified = unit.reshape(n, channels, h, w) * self.gain[:, None, None] + self.shift[:, None, None]
        return {"output": torch.cat((rectified, x[:, channels:]), 1)}


@dataclass(frozen=True, kw_only=True)
class FloatSoftmaxAttention(FloatNode):
    """Softmax attention: a qkv map (N, 3 C, H, W), whose channels are q, k, v, each heads x d, becomes (N, C, H, W).

    Every token sees all T tokens, or the T = window^2 of its window. Inner tensors, (N * windows, heads, T, T), rows
    are queries: "scores", scale * q k^T + bias, before masked pairs are left out; "attention", softmax of the rest.
    """

    heads: int
    scale: float
    window: int | None = None  #: tokens in a row of a window
    shift: int = 0  #: tokens by which windows are shifted, cyclically; tokens that were not neighbours are masked
    bias: Tensor | None = None  #: (heads, T, T)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        q, k, v = self.heads_of(x)
        scores = self.scores(q, k)
        attention = self.attention(scores, *x.shape[2:])
        return {"scores": scores, "attention": attention, "output": self.combine(attention, v, *x.shape[2:])}

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, and v, (N * windows, heads, T, d), of a qkv map."""
        tokens = self._tokens(x)
        n, count, channels = tokens.shape
        return tokens.reshape(n, count, 3, self.heads, channels // 3 // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """What the softmax takes, masked pairs too."""
        scores = q @ k.transpose(-1, -2) * self.scale
        return scores if self.bias is None else scores + self.bias

    def attention(self, scores: Tensor, h: int, w: int) -> Tensor:
        """Softmax over the pairs of a map of h x w pixels that are not masked."""
        mask = self.mask(h, w)
        if mask is not None:
            by_window = scores.unflatten(0, (-1, len(mask)))
            scores = by_window.masked_fill(mask[:, None].to(scores.device), -torch.inf).flatten(0, 1)
        return scores.softmax(-1)

    def combine(self, attention: Tensor, v: Tensor, h: int, w: int) -> Tensor:
        """The output (N, C, h, w)."""
        return self._map((attention @ v).transpose(1, 2).flatten(2), h, w)

    def mask(self, h: int, w: int) -> Tensor | None:
        """(windows, T, T), True for pairs that are left out; None if there are none."""
        return shift_mask(h, w, self.window, self.shift) if self.shift else None

    def _tokens(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N * windows, T, C)."""
        if self.window is None:
            return x.flatten(2).transpose(1, 2)
        return split_windows(torch.roll(x, (-self.shift, -self.shift), (2, 3)).permute(0, 2, 3, 1), self.window)

    def _map(self, tokens: Tensor, h: int, w: int) -> Tensor:
        """Undo `_tokens`."""
        if self.window is None:
            return tokens.transpose(1, 2).unflatten(2, (h, w))
        x = merge_windows(tokens, self.window, h, w).permute(0, 3, 1, 2)
        return torch.roll(x, (self.shift, self.shift), (2, 3))


@dataclass(frozen=True, kw_only=True)
class FloatMerge(FloatNode):
    """2 x 2 pixels become one: (N, C, H, W) to (N, 4 C, H / 2, W / 2); channels of the upper left pixel, then those of
    the lower left, the upper right, and the lower right one."""

    def run(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": merge_patches(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}


@dataclass(frozen=True, kw_only=True)
class FloatSelect(FloatNode):
    """The channels of chosen tokens, one after another: (N, C, 1, T) to (N, K C, 1, 1)."""

    tokens: tuple[int, ...]

    def run(self, x: Tensor) -> dict[str, Tensor]:
        chosen = x[:, :, 0, list(self.tokens)]
        return {"output": chosen.transpose(1, 2).flatten(1)[:, :, None, None]}
