"""How well an integer network does: top-1 accuracy, agreement with the float network, noise of every tensor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant.data import Dataset, normalise
from quant.fake import fake_quantized, quantized_input, recorded_format
from quant.graph import FloatGraph
from quant.integer_network import IntegerNetwork
from quant.models.registry import Model
from quant.predictions import Classifier, PredictionFile, Progress, predict, top1
from quant.qat.network import QuantizedGraph

__all__ = [
    "Agreement",
    "Comparison",
    "FloatNetwork",
    "agreement",
    "compare",
    "dequantize",
    "digest",
    "float_classifier",
    "model_fingerprint",
    "signal_to_noise",
]

#: a float network, or one that was trained with quantization: then that is what others are compared with
FloatNetwork = Model | FloatGraph | QuantizedGraph

#: images at a time whose tensors are all kept
TRACE_BATCH = 4
#: images at a time that a GPU classifies
GPU_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A float network, its fake-quantized copy, and the integer network, on the same images; shares are 0..1."""

    images: int
    float_top1: float
    fake_top1: float
    integer_top1: float
    fake_agreement: float  #: share of images for which the fake-quantized network names the float network's class
    agreement: float  #: likewise the integer network


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A network and its integer network on the same images; shares are 0..1."""

    images: int
    top1: float
    integer_top1: float
    agreement: float  #: share of images for which both name the same class


def float_classifier(
    model: FloatNetwork, mean: Sequence[float], std: Sequence[float], device: str = "cpu"
) -> Classifier:
    """The float network, moved to `device`, as a function of image bytes."""
    exact = _exact(model).to(device)
    return lambda images: exact.logits(normalise(images.numpy(), mean, std).to(device))


def _exact(model: FloatNetwork) -> FloatGraph | QuantizedGraph:
    """What runs as the float network."""
    return model.eval() if isinstance(model, QuantizedGraph) else FloatGraph.from_model(model)


def _graph(model: FloatNetwork) -> FloatGraph:
    """The operations that the integer network was made from."""
    return model.graph if isinstance(model, QuantizedGraph) else FloatGraph.from_model(model)


def digest(*parts: str) -> str:
    """SHA-256 of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def model_fingerprint(model: FloatNetwork) -> str:
    """Digest that changes with any weight."""
    tensors = [
        (node.name, name, _sum(value))
        for node in _graph(model).nodes
        for name, value in vars(node).items()
        if isinstance(value, Tensor)
    ]
    if isinstance(model, QuantizedGraph):
        tensors += [("", name, _sum(value)) for name, value in model.state_dict().items()]
    return digest(repr(tensors))


def _sum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def agreement(
    classifier: Classifier, network: IntegerNetwork, dataset: Dataset, *, limit: int | None = None, device: str = "cpu"
) -> Agreement:
    """Run a network and its integer network, which is moved to `device`, on the first `limit` images (all if None)."""
    integer = network.to(device)
    batch = {} if device == "cpu" else {"batch_size": GPU_BATCH}
    classifiers = {"network": classifier, "integer": lambda images: integer.run(images.to(device))}
    classes = predict(classifiers, dataset, limit=limit, **batch)
    return Agreement(
        images=len(classes["network"]),
        top1=top1(classes["network"], dataset),
        integer_top1=top1(classes["integer"], dataset),
        agreement=_share(classes, "integer", "network"),
    )


def _share(classes: Mapping[str, Tensor], one: str, other: str) -> float:
    """Share of images for which two classifiers name the same class."""
    return float((classes[one] == classes[other]).double().mean())


def compare(
    model: FloatNetwork,
    network: IntegerNetwork,
    dataset: Dataset,
    *,
    limit: int | None = None,
    file: PredictionFile | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run the networks on the first `limit` images of a data set (all if None); see `predict`.

    A network that was trained with quantization is its own fake-quantized copy.
    """
    exact = float_classifier(model, network.info["mean"], network.info["std"])
    fake = exact if isinstance(model, QuantizedGraph) else _fake_classifier(model, network)
    classifiers = {"float": exact, "fake": fake, "integer": network.run}
    classes = predict(classifiers, dataset, limit=limit, file=file, progress=progress)
    return Comparison(
        images=len(classes["float"]),
        float_top1=top1(classes["float"], dataset),
        fake_top1=top1(classes["fake"], dataset),
        integer_top1=top1(classes["integer"], dataset),
        fake_agreement=_share(classes, "fake", "float"),
        agreement=_share(classes, "integer", "float"),
    )


def _fake_classifier(model: FloatNetwork, network: IntegerNetwork) -> Classifier:
    fake, image_input = fake_quantized(_graph(model), network), quantized_input(network)
    return lambda images: fake.logits(image_input(images))


@torch.no_grad()
def signal_to_noise(
    model: FloatNetwork, network: IntegerNetwork, images: np.ndarray, *, fake: bool = False
) -> dict[str, float]:
    """Signal-to-noise ratio in dB of every node's tensor against the float tensor, in order of execution.

    Noise is what quantization of this and all earlier nodes added up to; signal is the float tensor's mean square.

    Parameters
    ----------
    images : (N, size, size, 3) uint8.
    fake : of the fake-quantized network, in place of the integer network's codes as the real numbers they stand for;
        not of a network that was trained with quantization, which has no noise of its own.
    """
    exact = _exact(model)
    fake_graph, image_input = fake_quantized(_graph(model), network), quantized_input(network)
    powers: dict[str, Tensor] = {}
    for batch in torch.from_numpy(images).split(TRACE_BATCH):
        if fake:
            found = {node.name: tensors["output"] for node, tensors in fake_graph.run(image_input(batch))}
        else:
            found = {name: dequantize(network, name, codes) for name, codes in network.run(batch, trace=True).items()}
        for node, tensors in exact.run(normalise(batch.numpy(), network.info["mean"], network.info["std"])):
            real = tensors["output"].double()
            sums = torch.stack((real.square().sum(), (found[node.name] - real).square().sum()))
            powers[node.name] = powers.get(node.name, 0.0) + sums
    return {name: _decibels(*sums.tolist()) for name, sums in powers.items()}


def dequantize(network: IntegerNetwork, name: str, codes: Tensor) -> Tensor:
    """Real values (float32) that the codes (N, C, H, W) of a node stand for."""
    return recorded_format(network, name).dequantize(codes)


def _decibels(signal: float, noise: float) -> float:
    return 10.0 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf
