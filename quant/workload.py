"""What networks ask of hardware: products, and elements of everything that is no product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.graph import (
    FloatAttention,
    FloatConv,
    FloatGraph,
    FloatLayerNorm,
    FloatNode,
    FloatRectify,
    FloatSoftmaxAttention,
)

__all__ = ["Work", "node_work", "total"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of one frame.

    Parameters
    ----------
    products : of maps and weights.
    attention_products : of queries and keys, probabilities and values, or of linear attention's states.
    outputs : elements that products make, and that a requantizer takes: of convolutions, scores, and values.
    tables : of these, elements with an activation function.
    exponentials : of the softmax; each takes a requantizer twice, as a score and as a term.
    softmax_rows : sums and reciprocals.
    normalised : elements of LayerNorms and rectifications.
    normalised_rows : sums, sums of squares, and reciprocal square roots.
    residuals : elements of residual sums.
    weights : weights of convolutions.
    """

    products: int = 0
    attention_products: int = 0
    outputs: int = 0
    tables: int = 0
    exponentials: int = 0
    softmax_rows: int = 0
    normalised: int = 0
    normalised_rows: int = 0
    residuals: int = 0
    weights: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def total(graph: FloatGraph, size: int) -> Work:
    """Of all nodes together; see `node_work`."""
    return sum((work for _, work in node_work(graph, size)), Work())


def node_work(graph: FloatGraph, size: int) -> Iterator[tuple[FloatNode, Work]]:
    """Of each node, for one image of `size` pixels."""
    for node, tensors in graph.run(torch.zeros(1, 3, size, size)):
        yield node, _work(node, tensors)


def _work(node: FloatNode, tensors: dict[str, Tensor]) -> Work:
    elements = tensors["output"].numel()
    if isinstance(node, FloatConv):
        return Work(
            products=elements * node.weight[0].numel(),
            outputs=elements,
            tables=elements if node.activation not in (None, "relu6") else 0,
            residuals=elements * (len(node.inputs) - 1),
            weights=node.weight.numel(),
        )
    if isinstance(node, FloatSoftmaxAttention):
        scores = tensors["scores"].numel()
        per_head = tensors["output"].shape[1] // node.heads
        return Work(
            attention_products=2 * scores * per_head,
            outputs=scores + elements,
            exponentials=scores,
            softmax_rows=scores // tensors["scores"].shape[-1],
        )
    if isinstance(node, FloatAttention):
        return Work(attention_products=2 * elements * node.head_dim, outputs=elements)
    if isinstance(node, FloatLayerNorm):
        return Work(normalised=elements, normalised_rows=elements // tensors["output"].shape[1])
    if isinstance(node, FloatRectify):
        normalised = elements // 3 * 2
        return Work(normalised=normalised, normalised_rows=normalised // (len(node.gain) // (2 * node.heads)))
    return Work()
