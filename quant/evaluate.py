"""How well an integer network does: top-1 accuracy, agreement with the float network, noise of every tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant.data import Dataset, normalise
from quant.graph import FloatGraph
from quant.integer_network import IntegerNetwork
from quant.models.efficientvit import EfficientViT
from quant.scales import AffineFormat

__all__ = ["Comparison", "compare", "dequantize", "predictions", "signal_to_noise", "top1"]

#: maps a batch of images (N, size, size, 3) uint8 to class scores (N, classes)
Classifier = Callable[[Tensor], Tensor]
Progress = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of an integer network beside its float original, on the same images; shares are 0..1."""

    images: int
    float_top1: float
    integer_top1: float
    agreement: float  #: share of images for which both name the same class


def float_classifier(graph: FloatGraph, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    """The float network as a function of image bytes."""
    return lambda images: graph.logits(normalise(images.numpy(), mean, std))


def predictions(
    classifier: Classifier,
    dataset: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Tensor:
    """Class (int64) that `classifier` names for each of the first `limit` images."""
    count = min(len(dataset), limit or len(dataset))
    classes = []
    for start in range(0, count, batch_size):
        if progress:
            progress(start / count, f"image {start + 1} of {count}")
        images, _ = dataset[start : min(start + batch_size, count)]
        classes.append(classifier(torch.from_numpy(images)).argmax(1))
    return torch.cat(classes)


def top1(classes: Tensor, dataset: Dataset) -> float:
    """Share of predictions that are the first images' labels."""
    labels = torch.from_numpy(dataset.labels[: len(classes)])
    return float((classes == labels).double().mean())


def compare(
    model: EfficientViT,
    network: IntegerNetwork,
    dataset: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Comparison:
    """Run both networks on the first `limit` images of a data set (all if None).

    The small default batch keeps integer tensors in the processor's cache, which is faster than large batches.
    """
    graph = FloatGraph.from_model(model)
    runs = {
        "float": float_classifier(graph, network.info["mean"], network.info["std"]),
        "integer": network.run,
    }
    classes = {}
    for part, (name, classifier) in enumerate(runs.items()):
        report = None
        if progress:

            def report(done: float, text: str, part: int = part, name: str = name) -> None:
                progress((part + done) / len(runs), f"{name} network, {text}")

        classes[name] = predictions(classifier, dataset, limit=limit, batch_size=batch_size, progress=report)
    return Comparison(
        images=len(classes["float"]),
        float_top1=top1(classes["float"], dataset),
        integer_top1=top1(classes["integer"], dataset),
        agreement=float((classes["float"] == classes["integer"]).double().mean()),
    )


def signal_to_noise(model: EfficientViT, network: IntegerNetwork, images: np.ndarray) -> dict[str, float]:
    """Signal-to-noise ratio in dB of every node's codes, as the real numbers they stand for, against the float tensor.

    Noise is what quantization of this and all earlier nodes added up to; signal is the float tensor's mean square.
    """
    graph = FloatGraph.from_model(model)
    trace = network.run(torch.from_numpy(images), trace=True)
    ratios = {}
    for node, tensors in graph.run(normalise(images, network.info["mean"], network.info["std"])):
        real = tensors["output"].double()
        noise = (dequantize(network, node.name, trace[node.name]) - real).square().mean()
        signal = real.square().mean()
        ratios[node.name] = 10.0 * math.log10(float(signal / noise)) if signal > 0 and noise > 0 else math.inf
    return ratios


def dequantize(network: IntegerNetwork, name: str, codes: Tensor) -> Tensor:
    """Real values (float32) that the codes (N, C, H, W) of a node stand for."""
    recorded = network.info["formats"][name]
    scale = torch.tensor(recorded["scale"], dtype=torch.float64)
    zero = torch.tensor(recorded["zero_point"], dtype=torch.int64)
    return AffineFormat(scale, zero, bits=8).dequantize(codes)
