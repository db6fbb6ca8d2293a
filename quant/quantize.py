"""Post-training quantization: a float network and calibration images become an `IntegerNetwork`.

First the float network runs on the calibration images, watched by observers. Then every operation gets the integers
that make it compute the same thing on codes (`quant.builder`), block by block. With reconstruction, each block is
then adapted (`quant.reconstruction`), given what the integer blocks before it really put out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from quant.builder import Builder, QuantizationError, map_format
from quant.config import QuantizerConfig, Reconstruction
from quant.data import normalise
from quant.graph import FloatGraph, FloatNode
from quant.integer_network import IntegerNetwork
from quant.models.registry import Model
from quant.observers import Extremes, Histogram
from quant.progress import Progress, part_of
from quant.reconstruction.reconstruct import JUDGES, Reconstructor

__all__ = ["QuantizationError", "QuantizerConfig", "Reconstruction", "build_network", "calibrate", "quantize"]

#: images whose codes are followed through the integer network while it is made
SAMPLE_IMAGES = 64
#: rows of each head's probabilities that are watched, about
WATCHED_ROWS = 32
#: part of the work that calibration takes, without and with reconstruction
CALIBRATION_SHARE, CALIBRATION_SHARE_OF_MINUTES = 0.8, 0.05


def quantize(
    model: Model | FloatGraph,
    images_uint8: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    config: QuantizerConfig | None = None,
    progress: Progress | None = None,
) -> IntegerNetwork:
    """Quantize a classifier.

    Parameters
    ----------
    model : with or without batch norms; left as it is.
    images_uint8 : (N, size, size, 3) calibration images; 256 or more give good ranges, 1024 good reconstructions.
    mean, std : per-channel normalisation constants for pixels scaled to 0..1.
    progress : called as `progress(done, text)`, done in 0..1.

    Returns
    -------
    The network. `info["formats"]` has every tensor's scale and zero-point, `info["quantizer"]` the configuration.

    Raises
    ------
    QuantizationError : the images do not fit, or the float network has infinite or undefined values.
    """
    config = config or QuantizerConfig()
    images = np.asarray(images_uint8)
    _check_images(images, mean, std)
    if config.reconstruction and len(images) < JUDGES:
        raise QuantizationError(f"{len(images)} images cannot be learned from; give at least {JUDGES}, better 1024")
    graph = FloatGraph.from_model(model)
    share = CALIBRATION_SHARE_OF_MINUTES if config.reconstruction else CALIBRATION_SHARE
    observers = calibrate(graph, images, mean, std, config, part_of(progress, 0.0, share))
    builder = Builder(graph, observers, config, images.shape[1], mean, std)
    return build_network(builder, images, mean, std, part_of(progress, share, 1.0))


def build_network(
    builder: Builder, images: np.ndarray, mean: Sequence[float], std: Sequence[float], progress: Progress
) -> IntegerNetwork:
    """The network of a builder that has no nodes yet; see `quantize`."""
    builder = _build(builder, images, mean, std, progress)
    info = {
        "quantizer": asdict(builder.config),
        "calibration_images": len(images),
        "mean": [float(x) for x in mean],
        "std": [float(x) for x in std],
        "formats": {
            name: {"scale": form.scale.tolist(), "zero_point": form.zero.tolist()}
            for name, form in builder.formats.items()
        },
    }
    return IntegerNetwork(tuple(builder.nodes), info)


def _build(
    builder: Builder, images: np.ndarray, mean: Sequence[float], std: Sequence[float], progress: Progress
) -> Builder:
    """All nodes, block by block."""
    config, blocks = builder.config, builder.graph.blocks()
    # Spread over the set, in case it is sorted by class.
    sample = images[:: max(len(images) // SAMPLE_IMAGES, 1)][:SAMPLE_IMAGES]
    builder.start(sample)
    floats = normalise(sample, mean, std)
    reconstructor = None
    if config.reconstruction:
        codes = builder.nodes[0].run(torch.from_numpy(images).permute(0, 3, 1, 2)).to(torch.uint8)
        reconstructor = Reconstructor(builder.graph, config.reconstruction, codes, normalise(images, mean, std))
    for index, block in enumerate(blocks):
        report = part_of(progress, index / len(blocks), (index + 1) / len(blocks))
        tensors = list(builder.graph.run_block(block, floats))
        before = builder.fork()
        for node, values in tensors:
            report(0.0, f"quantizing {node.name}")
            builder.add(node, values)
        if reconstructor:
            learned = reconstructor.learn(block, builder, report)
            candidate = before.fork(learned)
            for node, values in tensors:
                candidate.add(node, values)
            builder = reconstructor.better(block, builder, candidate)
        floats = tensors[-1][1]["output"]
    return builder


def _check_images(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise QuantizationError(
            f"calibration images must be uint8 (N, size, size, 3), not {images.dtype} {images.shape}"
        )
    if not len(images):
        raise QuantizationError("there are no calibration images; give at least one, better 256")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise QuantizationError(f"mean {mean} and std {std} must be three numbers each, std positive")


def calibrate(
    graph: FloatGraph,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    config: QuantizerConfig,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Extremes]:
    """Run the float network on all images; observers are keyed by (node, tensor) with the names of `FloatNode.run`."""
    observers: dict[tuple[str, str], Extremes] = {}
    for start in range(0, len(images), config.batch_size):
        if progress:
            progress(start / len(images), f"calibrating on image {start + 1} of {len(images)}")
        batch = normalise(images[start : start + config.batch_size], mean, std)
        for node, tensors in graph.run(batch):
            for kind, values in tensors.items():
                if kind == "scores":
                    continue
                # Only the extremes of a sum's parts and of pre-activations matter; the rest needs distributions.
                observer = observers.setdefault((node.name, kind), Extremes() if kind == "linear" else Histogram())
                try:
                    observer.update(_watched(graph, node, kind, values, config))
                except ValueError as error:
                    raise QuantizationError(f"{node.name}: {error}; the checkpoint is damaged") from error
    return observers


def _watched(
    graph: FloatGraph, node: FloatNode, kind: str, values: torch.Tensor, config: QuantizerConfig
) -> torch.Tensor:
    """Values (C, n) of the channels of a tensor, or (1, n) of all together."""
    if kind == "attention":
        # All rows of a large map would be too many.
        values = values[:, :, :: values.shape[2] // WATCHED_ROWS + 1]
    elif kind != "output" or map_format(graph, node, config) in ("tensor", "stream"):
        return values.reshape(1, -1)
    return values.transpose(0, 1).flatten(1)
