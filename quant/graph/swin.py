"""A Swin as operations."""

from __future__ import annotations

from quant.graph.layers import block_nodes, linear, norm, patches
from quant.graph.nodes import INPUT, FloatMerge, FloatNode, FloatPool
from quant.models.swin import PatchMerging, Swin

__all__ = ["swin_nodes"]


def swin_nodes(model: Swin) -> list[FloatNode]:
    """The operations in order."""
    nodes: list[FloatNode] = [
        patches("patch.conv", INPUT, model.patch_embed.proj),
        norm("patch.norm", "patch.conv", model.patch_embed.norm),
    ]
    for stage, layer in enumerate(model.layers, start=1):
        if isinstance(layer.downsample, PatchMerging):
            nodes += _merging(f"stages.{stage}.merge", nodes[-1].name, layer.downsample)
        for index, block in enumerate(layer.blocks):
            nodes += block_nodes(f"stages.{stage}.{index}", nodes[-1].name, block)
    return [
        *nodes,
        norm("head.norm", nodes[-1].name, model.norm),
        FloatPool(name="head.pool", inputs=("head.norm",)),
        linear("head.fc", ("head.pool",), model.head.fc),
    ]


def _merging(name: str, source: str, layer: PatchMerging) -> list[FloatNode]:
    return [
        FloatMerge(name=f"{name}.gather", inputs=(source,)),
        norm(f"{name}.norm", f"{name}.gather", layer.norm),
        linear(f"{name}.reduce", (f"{name}.norm",), layer.reduction),
    ]
