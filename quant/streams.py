"""Residual streams of transformers: which tensors are signed codes of 16 bits, and their scales.

LayerNorms and residual sums lose what 8 bits cannot hold, and no multiplier array reads them; so what only they read
is a stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from quant.graph import (
    FloatConv,
    FloatGraph,
    FloatLayerNorm,
    FloatMerge,
    FloatNode,
    FloatRectify,
    FloatSelect,
    FloatTokens,
)

__all__ = ["consumers", "is_stream", "keeps_scale"]


def keeps_scale(node: FloatNode) -> bool:
    """Whether the output's codes are those of the input, in the same scale."""
    return isinstance(node, (FloatTokens, FloatMerge, FloatSelect))


def consumers(graph: FloatGraph, node: FloatNode) -> Iterator[tuple[FloatNode, str]]:
    """What reads a node's values, and the name of the tensor by which it does: nodes that keep the scale are seen
    through."""
    for reader in graph.readers[node.name]:
        if keeps_scale(reader):
            yield from consumers(graph, reader)
        else:
            yield reader, node.name


def is_stream(graph: FloatGraph, node: FloatNode) -> bool:
    """Whether only LayerNorms, rectifications, and residual sums read a node's output."""
    readers = list(consumers(graph, node))
    return bool(readers) and all(_takes_stream(reader, name) for reader, name in readers)


def _takes_stream(reader: FloatNode, name: str) -> bool:
    if isinstance(reader, FloatConv):
        return reader.inputs[0] != name
    # The LayerNorm with an activation is that of EfficientViT's head, which reads a map of codes.
    return isinstance(reader, FloatRectify) or (isinstance(reader, FloatLayerNorm) and reader.activation is None)
