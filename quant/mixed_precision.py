"""Mixed precision: which layers can do with fewer bits, measured on the integer network, and how to spend a budget.

The sensitivity of a layer is what giving it fewer bits, and nothing else, does to the class scores: the mean
Kullback-Leibler divergence from the classes' probabilities before. Divergences of several layers are taken to add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quant.config import QuantizerConfig
from quant.integer_network import Conv, IntegerNetwork, Merge, Node, Select
from quant.models.registry import Model
from quant.progress import Progress, part_of
from quant.quantize import quantize
from quant.scales import BIAS_LIMIT, quantize_weight, signed_fixed_point

__all__ = [
    "Sensitivity",
    "activation_sensitivities",
    "allocate",
    "average_bits",
    "narrowed",
    "weight_sensitivities",
    "within_budget",
]

#: images that sensitivities are measured on
SAMPLE_IMAGES = 64

#: parts of a tensor's range that coarse codes are tried to cover
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True)
class Sensitivity:
    """Of one layer.

    Parameters
    ----------
    elements : weights, or pixels times channels of the output.
    divergence : in nats, what fewer bits in this layer alone do to the class probabilities.
    """

    elements: int
    divergence: float


def within_budget(
    model: Model,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    config: QuantizerConfig,
    *,
    weights: float | None = None,
    activations: float | None = None,
    progress: Progress | None = None,
) -> QuantizerConfig:
    """The configuration with bits per layer, 8 or 4, so that weights and maps have so many bits on average.

    See `quantize` for the other parameters. The words of an accelerator's scratchpads have one width, so maps of fewer
    bits save it neither memory nor time.
    """
    plain = replace(config, weight_bits=8, act_bits=8, reconstruction=None)
    network = quantize(model, images, mean, std, plain, part_of(progress, 0.0, 0.4))
    sample = torch.from_numpy(images[:: max(len(images) // SAMPLE_IMAGES, 1)][:SAMPLE_IMAGES])
    if weights is not None:
        layer_bits = allocate(weight_sensitivities(network, sample, 4, part_of(progress, 0.4, 0.7)), weights)
        config = replace(config, layer_weight_bits=layer_bits)
    if activations is not None:
        layer_bits = allocate(activation_sensitivities(network, sample, 4, part_of(progress, 0.7, 1.0)), activations)
        config = replace(config, layer_act_bits=layer_bits)
    return config


def weight_sensitivities(
    network: IntegerNetwork, images: Tensor, bits: int, progress: Progress | None = None
) -> dict[str, Sensitivity]:
    """Of all convolutions, to weights of `bits` bits, on images (N, size, size, 3) uint8."""
    trace = network.run(images, trace=True)
    convs = [node for node in network.nodes if isinstance(node, Conv)]
    found = {}
    for node in _reported(convs, progress, "weights"):
        codes = narrowed(node, bits, trace[node.inputs[0]]).run(*(trace[name] for name in node.inputs))
        found[node.name] = Sensitivity(node.weight.numel(), _divergence(network, trace, node, codes))
    return found


def activation_sensitivities(
    network: IntegerNetwork, images: Tensor, bits: int, progress: Progress | None = None
) -> dict[str, Sensitivity]:
    """Of all nodes but the input and the class scores, to outputs of `bits` bits. Streams, and tensors that are only
    parts of another one, are left out."""
    trace, widths = network.run(images, trace=True), network.widths()
    maps = [x for x in network.nodes[1:-1] if not widths[x.name].signed and not isinstance(x, (Merge, Select))]
    found = {}
    for node in _reported(maps, progress, "activations"):
        codes = _coarse(trace[node.name], bits)
        found[node.name] = Sensitivity(codes[0].numel(), _divergence(network, trace, node, codes))
    return found


def allocate(sensitivities: Mapping[str, Sensitivity], budget: float, *, high: int = 8, low: int = 4) -> dict[str, int]:
    """Bits of every layer, `high` or `low`, such that the average over all elements is at most `budget`.

    Layers get `low` bits in the order of their divergence per element until the budget is met, and then those before
    the last that turn out not to be needed get `high` bits again. Raises ValueError for a budget below `low`.
    """
    if budget < low:
        raise ValueError(f"a budget of {budget} bits cannot be met with layers of {low} bits; give {low} or more")
    bits = dict.fromkeys(sensitivities, high)
    order = sorted(sensitivities, key=lambda name: sensitivities[name].divergence / sensitivities[name].elements)
    narrow = []
    for name in order:
        if average_bits(sensitivities, bits) <= budget:
            break
        bits[name] = low
        narrow.append(name)
    # The last layer may be so large that others need not be narrow: the most sensitive go back first.
    for name in sorted(narrow, key=lambda name: -sensitivities[name].divergence):
        trial = {**bits, name: high}
        if average_bits(sensitivities, trial) <= budget:
            bits = trial
    return bits


def average_bits(sensitivities: Mapping[str, Sensitivity], bits: Mapping[str, int]) -> float:
    """Mean of `bits`, weighted with the layers' elements."""
    total = sum(layer.elements for layer in sensitivities.values())
    return sum(layer.elements * bits[name] for name, layer in sensitivities.items()) / total


def narrowed(node: Conv, bits: int, source: Tensor) -> Conv:
    """The convolution with weights of fewer bits, made from its own integers.

    Biases keep the mean of the accumulators on the codes `source` (N, C, H, W) where it was.
    """
    codes, scale = quantize_weight(node.weight.double(), bits)
    coarse = replace(node, weight=codes, weight_bits=bits)
    requant = node.requant
    wanted = node.accumulate(source).double().mean((0, 2, 3)) + requant.bias
    bias = torch.round(wanted / scale - coarse.accumulate(source).double().mean((0, 2, 3)))
    real = torch.ldexp(requant.multiplier.double(), -requant.shift) * scale
    multiplier, shift = signed_fixed_point(real)
    bias = bias.clamp(-BIAS_LIMIT, BIAS_LIMIT).long()
    return replace(coarse, requant=replace(requant, bias=bias, multiplier=multiplier, shift=shift))


def _coarse(codes: Tensor, bits: int) -> Tensor:
    """The codes, as near as 2**bits evenly spaced values per channel can be to them."""
    rows = codes.transpose(0, 1).flatten(1).double()
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    best, least = None, torch.full_like(low, torch.inf)
    for shrink in SHRINKS:
        step = (shrink * (high - low) / ((1 << bits) - 1)).clamp(min=1.0)
        trial = torch.round((rows - low) / step).clamp(max=(1 << bits) - 1) * step + low
        error = (trial - rows).square().sum(1, keepdim=True)
        best = trial if best is None else torch.where(error < least, trial, best)
        least = torch.minimum(error, least)
    return torch.round(best).int().reshape(codes.transpose(0, 1).shape).transpose(0, 1)


def _divergence(network: IntegerNetwork, trace: Mapping[str, Tensor], changed: Node, codes: Tensor) -> float:
    """What `codes` in place of a node's output do to the class probabilities."""
    live = {**trace, changed.name: codes}
    stale = {changed.name}
    for node in network.nodes:
        if stale & set(node.inputs):
            live[node.name] = node.run(*(live[name] for name in node.inputs))
            stale.add(node.name)
    scale = network.info["formats"][network.nodes[-1].name]["scale"][0]
    before, after = (F.log_softmax(x[network.nodes[-1].name][:, :, 0, 0].double() * scale, 1) for x in (trace, live))
    return max(float(F.kl_div(after, before, reduction="batchmean", log_target=True)), 0.0)


def _reported(nodes: Sequence[Node], progress: Progress | None, what: str) -> Iterator[Node]:
    for index, node in enumerate(nodes):
        if progress:
            progress(index / len(nodes), f"sensitivity to the {what} of {node.name}")
        yield node
