"""What a network with fake-quantized codes learns from: labels, the classes that its float twin names, and how similar
the tokens' queries and keys are in the twin (Q-ViT, section 3.4, distribution guided distillation)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.graph import FloatGraph, FloatNode, FloatRectify, FloatSoftmaxAttention
from quant.qat.config import QatConfig
from quant.qat.network import QuantizedGraph

__all__ = ["DistillationLoss", "guidance", "similarity"]


def similarity(x: Tensor) -> Tensor:
    """Similarity matrices (N, heads, T, T) of queries or keys (N, heads, T, d), Q-ViT eq. (22)::

    G = x x^T / ||x x^T||
    """
    products = x @ x.transpose(-1, -2)
    return products / torch.linalg.matrix_norm(products, keepdim=True).clamp(min=1e-12)


def guidance(found: list[tuple[Tensor, Tensor]], wanted: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Distribution guided distillation, Q-ViT eq. (23), the mean over images (windows, in a Swin)::

    sum over layers and heads of ||G_q(twin) - G_q(network)|| + ||G_k(twin) - G_k(network)||
    """
    total = torch.zeros((), device=found[0][0].device)
    for pair, twins in zip(found, wanted, strict=True):
        for x, twin in zip(pair, twins, strict=True):
            difference = similarity(twin) - similarity(x)
            total = total + torch.linalg.matrix_norm(difference).sum(1).mean()
    return total


class DistillationLoss:
    """The loss of a network; with z its scores and y the label::

        no teacher:  CE(z, y)
        teacher:     CE(z, y) / 2 + CE(z, argmax of the twin's scores) / 2       (hard distillation of DeiT)
        guidance:    ... + config.guidance * `guidance`

    Queries and keys of the network are what its attention reads: rectified and quantized. Those of the twin go through
    the rectification that the network started from, where there is one.

    Parameters
    ----------
    twin : the trained float network; not used if nothing in `config` asks for it.
    start : the graph that the network started from.
    label_smoothing : of CE(z, y).
    """

    def __init__(self, config: QatConfig, twin: FloatGraph, start: FloatGraph, label_smoothing: float = 0.0) -> None:
        self.config, self._twin, self._smoothing = config, twin, label_smoothing
        attentions = [node for node in start.nodes if isinstance(node, FloatSoftmaxAttention)]
        if config.guidance and not attentions:
            raise ValueError("there are no queries and keys to be guided: the network has no softmax attention")
        self._rectifiers = [node for node in start.nodes if isinstance(node, FloatRectify)] or [None] * len(attentions)

    def __call__(self, network: QuantizedGraph, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss on normalised images (N, 3, H, W)."""
        scores, pairs = _watched(network.run(inputs))
        loss = F.cross_entropy(scores, labels, label_smoothing=self._smoothing)
        if not (self.config.teacher or self.config.guidance):
            return loss
        wanted, twins = self._taught(inputs)
        if self.config.teacher:
            loss = loss / 2 + F.cross_entropy(scores, wanted.argmax(1)) / 2
        return loss + self.config.guidance * guidance(pairs, twins) if self.config.guidance else loss

    @torch.no_grad()
    def _taught(self, inputs: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The twin's scores, and the pairs of queries and keys."""
        pairs, rectifiers, source = [], iter(self._rectifiers), inputs
        for node, tensors in self._twin.run(inputs):
            if isinstance(node, FloatSoftmaxAttention) and self.config.guidance:
                rectifier = next(rectifiers)
                qkv = source if rectifier is None else rectifier.run(source)["output"]
                pairs.append(node.heads_of(qkv)[:2])
            source = tensors["output"]
        return source[:, :, 0, 0], pairs


def _watched(run: Iterable[tuple[FloatNode, dict[str, Tensor]]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    pairs = []
    for _, tensors in run:
        if "q" in tensors:
            pairs.append((tensors["q"], tensors["k"]))
        output = tensors["output"]
    return output[:, :, 0, 0], pairs
