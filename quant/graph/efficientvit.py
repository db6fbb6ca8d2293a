"""An EfficientViT as operations."""

from __future__ import annotations

import torch
from torch import nn

from quant.graph.nodes import INPUT, Activation, FloatAttention, FloatConv, FloatLayerNorm, FloatNode, FloatPool
from quant.models.efficientvit import (
    ConvLayer,
    DSConv,
    EfficientViT,
    EfficientViTBlock,
    LinearLayer,
    LiteMLA,
    MBConv,
    ResidualBlock,
)
from quant.models.fold import fold_batch_norms

__all__ = ["efficientvit_nodes"]


def efficientvit_nodes(model: EfficientViT) -> list[FloatNode]:
    """The operations in order; batch norms are folded into the convolutions."""
    return _Flattener(fold_batch_norms(model)).nodes


class _Flattener:
    """Walks the modules of a folded model and appends nodes; methods return the name of the tensor they make."""

    def __init__(self, model: EfficientViT) -> None:
        self.nodes: list[FloatNode] = []
        x = INPUT
        for index, block in enumerate(model.backbone.input_stem.op_list):
            x = self._layer("stem.conv", block, x) if index == 0 else self._block(f"stem.{index}", block, x)
        for stage, blocks in enumerate(model.backbone.stages, start=1):
            for index, block in enumerate(blocks.op_list):
                x = self._block(f"stages.{stage}.{index}", block, x)
        self._head(model.head.op_list, x)

    def _head(self, layers: nn.ModuleList, x: str) -> None:
        convolution, _, hidden, classifier = layers
        x = self._layer("head.conv", convolution, x)
        self.nodes.append(FloatPool(name="head.pool", inputs=(x,)))
        x = self._linear("head.fc1", hidden, "head.pool")
        norm = hidden.norm
        self.nodes.append(
            FloatLayerNorm(
                name="head.norm",
                inputs=(x,),
                weight=norm.weight.detach(),
                bias=norm.bias.detach(),
                epsilon=norm.eps,
                activation="hardswish",
            )
        )
        self._linear("head.fc2", classifier, "head.norm")

    def _block(self, name: str, block: nn.Module, x: str) -> str:
        if isinstance(block, EfficientViTBlock):
            x = self._attention(f"{name}.attention", block.context_module.main, x)
            return self._block(f"{name}.local", block.local_module, x)
        if isinstance(block, ResidualBlock):
            return self._convolutions(name, block.main, x, x if block.shortcut is not None else None)
        raise TypeError(f"{name} is a {type(block).__name__}, which is not a block of an EfficientViT classifier")

    def _convolutions(self, name: str, block: DSConv | MBConv, x: str, residual: str | None) -> str:
        if isinstance(block, MBConv):
            x = self._layer(f"{name}.inverted", block.inverted_conv, x)
        x = self._layer(f"{name}.depth", block.depth_conv, x)
        return self._layer(f"{name}.point", block.point_conv, x, residual)

    def _attention(self, name: str, block: LiteMLA, x: str) -> str:
        qkv = self._layer(f"{name}.qkv", block.qkv, x)
        depth, group = block.aggreg[0]
        aggregated = self._convolution(f"{name}.depth", depth, qkv)
        aggregated = self._convolution(f"{name}.group", group, aggregated)
        self.nodes.append(
            FloatAttention(
                name=f"{name}.linear",
                inputs=(qkv, aggregated),
                head_dim=block.dim,
                epsilon=block.eps,
            )
        )
        return self._layer(f"{name}.proj", block.proj, f"{name}.linear", x)

    def _layer(self, name: str, layer: ConvLayer, x: str, residual: str | None = None) -> str:
        return self._convolution(name, layer.conv, x, residual, activation=None if layer.act is None else "hardswish")

    def _convolution(
        self, name: str, conv: nn.Conv2d, x: str, residual: str | None = None, *, activation: Activation = None
    ) -> str:
        weight = conv.weight.detach()
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        inputs = (x,) if residual is None else (x, residual)
        self.nodes.append(
            FloatConv(
                name=name,
                inputs=inputs,
                weight=weight,
                bias=bias,
                stride=conv.stride[0],
                groups=conv.groups,
                activation=activation,
            )
        )
        return name

    def _linear(self, name: str, layer: LinearLayer, x: str) -> str:
        weight = layer.linear.weight.detach()[:, :, None, None]
        bias = torch.zeros(len(weight)) if layer.linear.bias is None else layer.linear.bias.detach()
        self.nodes.append(FloatConv(name=name, inputs=(x,), weight=weight, bias=bias))
        return name
