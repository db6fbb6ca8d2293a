"""A DeiT as operations."""

from __future__ import annotations

import torch

from quant.graph.layers import block_nodes, linear, norm, patches
from quant.graph.nodes import INPUT, FloatConv, FloatNode, FloatSelect, FloatTokens
from quant.models.deit import DeiT

__all__ = ["deit_nodes"]


def deit_nodes(model: DeiT) -> list[FloatNode]:
    """The operations in order; those of a network without classes end with the features of all tokens."""
    nodes: list[FloatNode] = [
        patches("patch.conv", INPUT, model.patch_embed.proj),
        FloatTokens(
            name="patch.tokens",
            inputs=("patch.conv",),
            tokens=model.tokens.detach()[0].T,
            positions=model.pos_embed.detach()[0].T,
        ),
    ]
    for index, block in enumerate(model.blocks):
        nodes += block_nodes(f"blocks.{index}", nodes[-1].name, block)
    nodes.append(norm("head.norm", nodes[-1].name, model.norm))
    if not model.config.num_classes:
        return nodes
    nodes.append(FloatSelect(name="head.select", inputs=("head.norm",), tokens=tuple(range(model.config.prefix))))
    return [*nodes, _classifier(model)]


def _classifier(model: DeiT) -> FloatConv:
    """Of a distilled network, the mean of both classifiers as one layer on the channels of both tokens."""
    if model.head_dist is None:
        return linear("head.fc", ("head.select",), model.head)
    weight = torch.cat((model.head.weight.detach(), model.head_dist.weight.detach()), 1) / 2
    bias = (model.head.bias.detach() + model.head_dist.bias.detach()) / 2
    return FloatConv(name="head.fc", inputs=("head.select",), weight=weight[:, :, None, None], bias=bias)
