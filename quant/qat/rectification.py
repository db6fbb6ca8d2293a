"""Information rectification of queries and keys (Q-ViT, section 3.3), put into a float graph.

The paper normalises them so that their codes carry the most information, eq. (20)::

    q~ = (q - mean(q) + beta) / (gamma * sqrt(variance(q) + epsilon))

Here, as in the authors' code, beta is added behind the division; gain = 1 / gamma and shift = beta are learned, one
per channel. They start at the mean deviation and the mean of the float network's queries and keys, so that what it has
learned is changed as little as a normalisation can.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quant.graph import FloatConv, FloatGraph, FloatNode, FloatRectify, FloatSoftmaxAttention

__all__ = ["centred_heads", "rectified"]

EPSILON = 1e-5


def rectified(graph: FloatGraph, x: Tensor, *, centred: bool = True) -> FloatGraph:
    """The graph with a `FloatRectify` before every softmax attention, which starts from normalised images `x`.

    Not `centred`, the means of queries and keys are taken out of the weights that make them: the root mean square of
    what is left is the deviation.
    """
    found: dict[str, Tensor] = {}
    for node, tensors in graph.run(x):
        found[node.name] = tensors["output"]
        if isinstance(node, FloatSoftmaxAttention):
            found[node.name] = found[node.inputs[0]]
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        if isinstance(node, FloatSoftmaxAttention):
            name = f"{node.name.rpartition('.')[0]}.rectify"
            gain, shift = _statistics(found[node.name], node.heads)
            nodes.append(
                FloatRectify(
                    name=name,
                    inputs=node.inputs,
                    heads=node.heads,
                    gain=gain,
                    shift=shift,
                    epsilon=EPSILON,
                    centred=centred,
                )
            )
            node = replace(node, inputs=(name,))
        nodes.append(node)
    return FloatGraph(tuple(nodes))


def _statistics(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Mean deviation and mean of each head of q and k, for each of their channels."""
    n, channels, h, w = qkv.shape
    by_head = qkv[:, : channels // 3 * 2].reshape(n, 2 * heads, -1, h, w)
    repeat = by_head.shape[2]
    deviation = by_head.std(2, correction=0).mean((0, 2, 3))
    return deviation.repeat_interleave(repeat), by_head.mean((0, 2, 3, 4)).repeat_interleave(repeat)


def centred_heads(node: FloatConv, heads: int) -> FloatConv:
    """The layer that makes q, k, and v, without the means of the heads of q and k."""

    def centred(values: Tensor) -> Tensor:
        normed = len(values) // 3 * 2
        by_head = values[:normed].unflatten(0, (2 * heads, -1))
        return torch.cat(((by_head - by_head.mean(1, keepdim=True)).flatten(0, 1), values[normed:]))

    return replace(node, weight=centred(node.weight), bias=centred(node.bias))
