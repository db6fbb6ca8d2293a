"""From a network that was trained with quantization to its integer network: every code it learned is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quant.builder import Builder, probabilities_of
from quant.config import QuantizerConfig
from quant.data import normalise
from quant.graph import INPUT, FloatConv, FloatGraph, FloatNode
from quant.integer_network import IntegerNetwork
from quant.observers import Extremes
from quant.progress import Progress, part_of
from quant.qat.network import QuantizedGraph
from quant.qat.steps import MapQuantizer
from quant.quantize import build_network
from quant.reconstruction.learned import Learned, LearnedConv

__all__ = ["integer_network", "quantizer_config"]

#: images at a time whose ranges are watched
BATCH = 32


def integer_network(
    network: QuantizedGraph,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    progress: Progress | None = None,
    **changes: object,
) -> IntegerNetwork:
    """The integer network with the weights, scales, and zero-points of a trained one.

    Streams, class scores, and the states of linear attention get their scales here, from the ranges that the trained
    network has on images: nothing was learned about them.

    Parameters
    ----------
    network : on the CPU, in evaluation mode.
    images : (N, size, size, 3) uint8.
    mean, std : of the image normalisation.
    changes : further fields of `QuantizerConfig`, e.g. widths of tables.

    Raises
    ------
    QuantizationError : a layer that integers cannot do; the message names it.
    """
    graph, config = network.graph, quantizer_config(network, **changes)
    observers = _observed(network, images, mean, std, part_of(progress, 0.0, 0.5))
    builder = Builder(graph, observers, config, images.shape[1], mean, std)
    builder = builder.fork(_learned(network, graph, builder.input_offset))
    return build_network(builder, images, mean, std, part_of(progress, 0.5, 1.0))


def quantizer_config(network: QuantizedGraph, **changes: object) -> QuantizerConfig:
    """The quantizer's configuration under which integer nodes have the widths of the network."""
    weights, maps = {}, {}
    for node in network.graph.nodes:
        layer = network[node.name]
        if layer.weight is not None:
            weights[node.name] = layer.weight.bits
        if isinstance(layer.output, MapQuantizer):
            maps[node.name] = layer.output.bits
        if layer.probabilities is not None:
            maps[probabilities_of(node)] = layer.probabilities.bits
    settings = {"layer_weight_bits": weights, "layer_act_bits": maps, "bias_correction": False}
    return QuantizerConfig(**settings | {"weight_bits": network.config.bits} | changes)


def _learned(network: QuantizedGraph, graph: FloatGraph, input_offset: Tensor) -> Learned:
    convs, forms = {}, {}
    for node in graph.nodes:
        layer = network[node.name]
        if isinstance(node, FloatConv):
            convs[node.name] = _learned_conv(network, node, input_offset)
        if isinstance(layer.output, MapQuantizer):
            forms[node.name] = layer.output.form()
        if layer.probabilities is not None:
            forms[probabilities_of(node)] = layer.probabilities.form().expand(node.heads)
    return Learned(convs, forms)


@torch.no_grad()
def _learned_conv(network: QuantizedGraph, node: FloatConv, input_offset: Tensor) -> LearnedConv:
    quantizer, factor = network[node.name].weight, network.factor(node)
    weight = quantizer(node.weight, factor).double()
    bias = node.bias.double()
    if node.inputs[0] == INPUT:
        # The zero codes of the colours do not stand for zeros.
        bias = bias + (weight * input_offset[:, None, None]).sum((1, 2, 3))
    return LearnedConv(quantizer.codes(node.weight, factor), weight, bias)


@torch.no_grad()
def _observed(
    network: QuantizedGraph, images: np.ndarray, mean: Sequence[float], std: Sequence[float], progress: Progress
) -> dict[tuple[str, str], Extremes]:
    """Ranges of outputs, and of what lies before activation functions and residual sums."""
    observers: dict[tuple[str, str], Extremes] = {}
    for start in range(0, len(images), BATCH):
        progress(start / len(images), f"watching image {start + 1} of {len(images)}")
        for node, tensors in network.run(normalise(images[start : start + BATCH], mean, std)):
            for kind in ("output", "linear"):
                if kind in tensors:
                    _observer(observers, node, kind).update(tensors[kind].reshape(1, -1))
    return observers


def _observer(observers: dict[tuple[str, str], Extremes], node: FloatNode, kind: str) -> Extremes:
    return observers.setdefault((node.name, kind), Extremes())
