"""Training from the command line: float networks, and networks of few bits that start from them."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from quant.data import load_dataset
from quant.data.dataset import ArrayDataset, normalise
from quant.evaluate import agreement, float_classifier
from quant.graph import FloatGraph
from quant.models.checkpoint import CheckpointInfo, save_checkpoint
from quant.models.efficientvit import EFFICIENTVIT
from quant.qat.checkpoint import new_network, read_trained, save_trained
from quant.qat.config import QatConfig
from quant.qat.export import integer_network
from quant.qat.loss import DistillationLoss
from quant.qat.network import QuantizedGraph
from quant.qat.through import IntegerForward, ThroughIntegers
from quant.train import Loss, Schedule, TrainConfig, train
from vitsmith.bundle import BundleError
from vitsmith.stages import load_model

__all__ = ["START_IMAGES", "integers_stage", "prepare_device", "quantized_settings", "train_stage"]

#: peak learning rates at the default batch of EfficientViT, of transformers, and of networks that are trained already
RATE, TRANSFORMER_RATE, QUANTIZED_RATE = 4e-3, 1e-3, 5e-4
#: training images that the first steps and zero-points are chosen for
START_IMAGES = 64
#: training images that give the integer network's streams their scales, and test images that it is compared on
CALIBRATION_IMAGES, COMPARED_IMAGES = 512, 1000


def prepare_device(device: str) -> None:
    """Make PyTorch compute in float32 on a GPU too. Raises `BundleError` if it sees none."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise BundleError(f"PyTorch sees no GPU for --device {device}; --device cpu takes longer")
        # Products of steps and codes have more digits than TF32.
        torch.backends.cudnn.allow_tf32 = False


def quantized_settings(bits: int | None, **settings: object) -> QatConfig | None:
    """How to quantize, or None if `bits` is. Raises `BundleError` for settings that cannot be."""
    if bits is None:
        if any(settings[name] for name in ("rectify", "teacher", "guidance")):
            raise BundleError("--rectify, --teacher, and --guidance belong to training with quantization; give --bits")
        return None
    try:
        return QatConfig(bits=bits, **settings)
    except ValueError as error:
        raise BundleError(str(error)) from error


def train_stage(
    out: Path,
    model: str,
    *,
    data: str,
    schedule: str,
    minutes: float,
    rate: float | None = None,
    batch: int = TrainConfig.batch_size,
    start: str | None = None,
    settings: QatConfig | None = None,
    through_integers: bool = False,
    precision: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
) -> dict[str, object]:
    """Train `model` from random weights, or, with `settings`, the network `start` (see `load_model`) with quantization.

    Raises `BundleError` for a data set of pictures that are not held in memory, for settings that cannot be, and where
    PyTorch has no such device.

    Parameters
    ----------
    rate : peak learning rate; the default grows with the square root of `batch`, as AdamW's does (Malladi et al.,
        "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022).
    batch : images a step.
    through_integers : see `quant.qat.through`.
    """
    if through_integers and settings is None:
        raise BundleError("--through-integers belongs to training with quantization; give --bits")
    if (settings is None) != (start is None):
        raise BundleError("training with quantization needs both --bits and --start CHECKPOINT, a trained network")
    # More threads help little on small images, and stall on a busy machine.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    prepare_device(device)
    if through_integers:
        settings = replace(settings, stream_images=START_IMAGES)
    try:
        epochs = Schedule.parse(schedule)
        twin, info = load_model(start, data, epochs.final_size) if start else (None, None)
        name = info.model if info else model
        config = TrainConfig(
            model=name,
            schedule=epochs,
            minutes=minutes,
            batch_size=batch,
            peak_lr=rate or _rate(name, settings) * math.sqrt(batch / TrainConfig.batch_size),
            weight_decay=TrainConfig.weight_decay if settings is None else 0.0,
            precision=precision,
            evaluate_every=10,
            seed=seed,
            device=device,
        )
    except ValueError as error:
        raise BundleError(str(error)) from error
    train_data, test_data = (load_dataset(data, split, epochs.final_size) for split in ("train", "test"))
    if not isinstance(train_data, ArrayDataset):
        raise BundleError(f"training needs small images held in memory; {data} is a folder of pictures")
    if info:
        for dataset in (train_data, test_data):
            dataset.mean, dataset.std = info.mean, info.std
    network, loss = _quantized(twin, info, settings, train_data, config) if settings else (None, None)
    if through_integers:
        loss = ThroughIntegers(loss, IntegerForward(train_data.sample(START_IMAGES), info.mean, info.std))
    top1 = train(
        config, train_data, test_data, out, model=network, loss=loss,
        save=save_trained if settings else save_checkpoint, resume=resume, command=command,
        console=Console(quiet=quiet),
    )  # fmt: skip
    return {
        "checkpoint": str(out),
        "model": name,
        "top1": top1,
        "start_top1": info.top1 if info else None,
        "settings": asdict(settings) if settings else None,
    }


def integers_stage(path: Path, *, device: str = "cpu") -> dict[str, object]:
    """Compare the network that `train_stage` wrote to `path` with the integer network that `quantize` makes of it.

    If it was trained through the integer operations, what is compared is what training saw.
    """
    network, info = read_trained(path)
    train_data, test_data = (load_dataset(info.data, split, info.size) for split in ("train", "test"))
    images = train_data.sample(network.config.stream_images or CALIBRATION_IMAGES)
    made = integer_network(network, images, info.mean, info.std)
    classifier = float_classifier(network, info.mean, info.std, device)
    if network.config.stream_images:
        through = IntegerForward(images, info.mean, info.std)

        def classifier(images: Tensor) -> Tensor:
            return through.scores(network, normalise(images.numpy(), info.mean, info.std).to(device))

    found = agreement(classifier, made, test_data, limit=COMPARED_IMAGES, device=device)
    return {
        "compared_images": found.images,
        "trained_top1": found.top1,
        "integer_top1": found.integer_top1,
        "agreement": found.agreement,
    }


def _rate(name: str, settings: QatConfig | None) -> float:
    if settings is not None:
        return QUANTIZED_RATE
    return RATE if name in EFFICIENTVIT else TRANSFORMER_RATE


def _quantized(
    twin: object, info: CheckpointInfo, settings: QatConfig, data: ArrayDataset, config: TrainConfig
) -> tuple[QuantizedGraph, Loss]:
    """A network to train, and its loss."""
    graph = FloatGraph.from_model(twin)
    if len(data.class_names) != info.num_classes:
        raise BundleError(f"{data.name} has {len(data.class_names)} classes, the network {info.num_classes}")
    images = normalise(data.sample(START_IMAGES, config.seed), info.mean, info.std)
    network = new_network(graph, settings, images, replace(info, size=config.schedule.final_size))
    try:
        loss = DistillationLoss(
            settings, graph.to(config.device), network.graph.to(config.device), config.label_smoothing
        )
    except ValueError as error:
        raise BundleError(str(error)) from error
    return network, loss
