"""What each technique is worth: Trio-ViT's ablation (Table V) on integer networks, and our steps beyond it.

Every row is a configuration that is quantized with several sets of calibration images, and evaluated on the same test
images. Rows up to the paper's recipe follow its table; but the attention runs in integers in all of them, with exact
divisors where the paper leaves it in floating point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from quant.config import QuantizerConfig, Reconstruction
from quant.data import Dataset
from quant.evaluate import FloatNetwork, digest, float_classifier, model_fingerprint
from quant.graph import FloatGraph
from quant.integer_network import IntegerNetwork
from quant.predictions import PredictionFile, Progress, predict, top1
from quant.quantize import quantize

__all__ = ["ROWS", "Result", "Subject", "ablate"]

_BOTH = {"depthwise_input": "migration", "second_pointwise_input": "shift"}


def _ours() -> dict[str, QuantizerConfig]:
    """From the paper's recipe to the default configuration and beyond, one change after the other."""
    steps = {
        "ours: reciprocal divisor": {"divisor_mantissa_bits": QuantizerConfig().divisor_mantissa_bits},
        "+ depthwise input per channel": {"depthwise_input": "channel"},
        "+ second pointwise input per channel": {"second_pointwise_input": "channel"},
        "+ other maps per channel": {"pointwise_input": "channel"},
        "+ q, k, v per channel": {"attention_input": "channel"},
        "+ attention states per head": {"attention_state": "head"},
        "+ bias correction = ours": {"bias_correction": True},
        "+ reconstruction of blocks": {"reconstruction": Reconstruction()},
    }
    rows, changes = {}, {}
    for name, change in steps.items():
        changes |= change
        rows[name] = QuantizerConfig.trio_vit(**changes)
    return rows


#: the rows of the ablation, in order
ROWS: Mapping[str, QuantizerConfig] = {
    "one scale per tensor": QuantizerConfig.plain(),
    "+ migration": QuantizerConfig.plain(depthwise_input="migration"),
    "+ shifting": QuantizerConfig.plain(second_pointwise_input="shift"),
    "+ both": QuantizerConfig.plain(**_BOTH),
    "+ both, uniform 8-bit divisor": QuantizerConfig.plain(**_BOTH, divisor="uniform"),
    "+ both, power-of-two divisor = Trio-ViT": QuantizerConfig.trio_vit(),
    **_ours(),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and the images for it; both splits have the network's input size."""

    name: str
    model: FloatNetwork
    mean: Sequence[float]
    std: Sequence[float]
    train: Dataset
    test: Dataset


@dataclass(frozen=True, kw_only=True)
class Result:
    """One network, quantized as one row says with the calibration images of one seed; shares are 0..1."""

    network: str
    row: str
    seed: int
    images: int
    float_top1: float
    top1: float
    agreement: float  #: share of images for which the float network names the same class


def ablate(
    subjects: Sequence[Subject],
    folder: Path,
    *,
    rows: Mapping[str, QuantizerConfig] = ROWS,
    seeds: int = 3,
    limit: int | None = None,
    calibration_images: int = 512,
    progress: Progress | None = None,
) -> list[Result]:
    """Measure all rows on all subjects, for seeds 0, 1, ..., which choose the calibration images.

    Parameters
    ----------
    folder : where predictions are kept, so that what was measured once is not measured again. They are dropped when
        network, data or configuration change, but not when the code of the quantizer does: then use another folder.
    limit : test images; all if None.
    """
    # Seeds outermost: a run that is stopped has measured all rows equally well.
    runs = [(seed, subject, row) for seed in range(seeds) for subject in subjects for row in rows]
    results = []
    for index, (seed, subject, row) in enumerate(runs):

        def report(done: float, text: str, index: int = index, name: str = f"{subject.name}, {row}, {seed}") -> None:
            if progress:
                progress((index + done) / len(runs), f"{name}: {text}")

        exact = _float_classes(subject, folder, limit, report)
        found = _integer_classes(subject, rows[row], seed, calibration_images, folder, limit, report)
        results.append(
            Result(
                network=subject.name,
                row=row,
                seed=seed,
                images=len(exact),
                float_top1=top1(exact, subject.test),
                top1=top1(found, subject.test),
                agreement=float((found == exact).double().mean()),
            )
        )
    return results


def _float_classes(subject: Subject, folder: Path, limit: int | None, progress: Progress) -> Tensor:
    classifier = float_classifier(FloatGraph.from_model(subject.model), subject.mean, subject.std)
    file = _file(folder, subject, {"normalisation": [*subject.mean, *subject.std]})
    return predict({"classes": classifier}, subject.test, limit=limit, file=file, progress=progress)["classes"]


def _integer_classes(
    subject: Subject,
    config: QuantizerConfig,
    seed: int,
    calibration_images: int,
    folder: Path,
    limit: int | None,
    progress: Progress,
) -> Tensor:
    @cache
    def network() -> IntegerNetwork:
        images = subject.train.sample(calibration_images, seed)
        return quantize(subject.model, images, subject.mean, subject.std, config)

    settings = {"config": asdict(config), "seed": seed, "images": calibration_images, "from": subject.train.fingerprint}
    file = _file(folder, subject, settings)
    # Quantized when the first batch asks for it: if all predictions are in the file, never.
    classifier = {"classes": lambda images: network().run(images)}
    return predict(classifier, subject.test, limit=limit, file=file, progress=progress)["classes"]


def _file(folder: Path, subject: Subject, settings: Mapping[str, object]) -> PredictionFile:
    key = digest(model_fingerprint(subject.model), subject.test.fingerprint, json.dumps(settings))
    return PredictionFile(folder / f"{key[:16]}.json", key)
