"""Layers that DeiT and Swin have in common, as operations."""

from __future__ import annotations

import torch
from torch import nn

from quant.graph.nodes import Activation, FloatConv, FloatLayerNorm, FloatNode, FloatSoftmaxAttention
from quant.models.deit import DeiTBlock
from quant.models.swin import SwinBlock, WindowAttention

__all__ = ["block_nodes", "linear", "norm", "patches"]


def patches(name: str, source: str, conv: nn.Conv2d) -> FloatConv:
    """Patch embedding."""
    return FloatConv(
        name=name,
        inputs=(source,),
        weight=conv.weight.detach(),
        bias=conv.bias.detach(),
        stride=conv.stride[0],
        padding=None,
    )


def linear(name: str, inputs: tuple[str, ...], layer: nn.Linear, activation: Activation = None) -> FloatConv:
    """A linear layer as a 1x1 convolution; a second input is added to the result."""
    weight = layer.weight.detach()[:, :, None, None]
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    return FloatConv(name=name, inputs=inputs, weight=weight, bias=bias, activation=activation)


def norm(name: str, source: str, layer: nn.LayerNorm) -> FloatLayerNorm:
    """A LayerNorm."""
    return FloatLayerNorm(
        name=name, inputs=(source,), weight=layer.weight.detach(), bias=layer.bias.detach(), epsilon=layer.eps
    )


def block_nodes(name: str, source: str, block: DeiTBlock | SwinBlock) -> list[FloatNode]:
    """The attention's and the MLP's operations, `name`.attention.* and `name`.mlp.*; the last one makes the result."""
    a, m, attention = f"{name}.attention", f"{name}.mlp", block.attn
    in_windows = isinstance(attention, WindowAttention)
    softmax = FloatSoftmaxAttention(
        name=f"{a}.softmax",
        inputs=(f"{a}.qkv",),
        heads=attention.heads,
        scale=(attention.proj.in_features // attention.heads) ** -0.5,
        window=attention.window if in_windows else None,
        shift=attention.shift if in_windows else 0,
        bias=attention.bias.detach() if in_windows else None,
    )
    return [
        norm(f"{a}.norm", source, block.norm1),
        linear(f"{a}.qkv", (f"{a}.norm",), attention.qkv),
        softmax,
        linear(f"{a}.proj", (softmax.name, source), attention.proj),
        norm(f"{m}.norm", f"{a}.proj", block.norm2),
        linear(f"{m}.fc1", (f"{m}.norm",), block.mlp.fc1, "gelu"),
        linear(f"{m}.fc2", (f"{m}.fc1", f"{a}.proj"), block.mlp.fc2),
    ]
