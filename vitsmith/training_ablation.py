"""What rectification and distillation are worth in training with few bits: one run per row, table, and picture."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from quant.evaluate import FloatNetwork, agreement, digest, float_classifier
from quant.graph import FloatGraph
from quant.integer_network import IntegerNetwork
from quant.models.checkpoint import CheckpointInfo
from quant.qat.checkpoint import read_trained
from quant.qat.config import QatConfig
from quant.qat.export import integer_network, quantizer_config
from quant.qat.network import QuantizedGraph
from quant.quantize import quantize
from quant.train import TrainConfig
from vitsmith.bundle import write_if_changed
from vitsmith.jobs import Job, run_jobs
from vitsmith.stages import Progress, load_dataset, load_model
from vitsmith.training import prepare_device, train_stage

__all__ = ["ROWS", "TrainingResult", "training_ablation_stage"]

#: what each row changes, in order
ROWS: Mapping[str, Mapping[str, object]] = {
    "base": {},
    "+ rectification": {"rectify": "centred"},
    "+ distillation": {"teacher": True, "guidance": 1.0},
    "+ both": {"rectify": "centred", "teacher": True, "guidance": 1.0},
}
#: without training
UNTRAINED = "not trained with quantization"
CALIBRATION_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """One row; shares are 0..1. `agreement` is that of the integer network with the fake-quantized one that was
    trained, or, where nothing was trained, with the float network."""

    bits: int
    row: str
    seed: int
    images: int
    start_top1: float
    trained_top1: float | None
    integer_top1: float
    agreement: float


def training_ablation_stage(
    folder: Path,
    start: str,
    *,
    schedule: str,
    bits: Sequence[int] = (4, 2),
    seeds: int = 1,
    minutes: float = 600.0,
    batch: int = TrainConfig.batch_size,
    images: int = 0,
    device: str = "cpu",
    workers: int = 1,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """Train the rows with each number of bits from the trained network `start`, and measure their integer networks on
    the first `images` test images (0: all).

    Writes `training.json`, `training.md`, and `training.png` into `folder`, where checkpoints and results are kept: a
    stopped run goes on.

    Parameters
    ----------
    batch : images a step.
    device : "cpu", or "cuda".
    workers : runs at a time, each a process.
    """
    weights = hashlib.sha256(Path(start).read_bytes()).hexdigest()
    common = {"start": str(start), "weights": weights, "schedule": schedule, "minutes": minutes, "images": images}
    common |= {"batch": batch, "device": device, "folder": str(folder)}
    jobs = [
        common | {"bits": width, "row": row, "seed": seed}
        for seed in range(seeds)
        for width in bits
        for row in (UNTRAINED, *ROWS)
    ]
    found = run_jobs(
        _measure, b"", jobs, folder, workers=workers,
        progress=progress and (lambda done, total: progress(done / total, f"{done} of {total} rows")),
    )  # fmt: skip
    results = [TrainingResult(**result) for result in found]
    document = {"command": command, "schedule": schedule, "results": found}
    write_if_changed(folder / "training.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "training.md", _markdown(results, start, schedule, command))
    write_if_changed(folder / "training.png", _picture(results))
    return document


def _measure(_: bytes, job: Job) -> Job:
    """One run: a network is trained or not, and compared with its integer network."""
    torch.set_num_threads(1)
    prepare_device(job["device"])
    network, made, info, start_top1 = (_untrained if job["row"] == UNTRAINED else _trained)(job)
    classifier = float_classifier(network, info.mean, info.std, job["device"])
    test = load_dataset(info.data, "test", info.size)
    found = agreement(classifier, made, test, limit=job["images"] or None, device=job["device"])
    result = TrainingResult(
        bits=job["bits"],
        row=job["row"],
        seed=job["seed"],
        images=found.images,
        start_top1=found.top1 if start_top1 is None else start_top1,
        trained_top1=None if start_top1 is None else found.top1,
        integer_top1=found.integer_top1,
        agreement=found.agreement,
    )
    return asdict(result)


def _trained(job: Job) -> tuple[FloatNetwork, IntegerNetwork, CheckpointInfo, float]:
    """The network of a row, its integer network, facts, and the accuracy of the network it started from."""
    path = Path(job["folder"]) / f"{digest(json.dumps(job))[:16]}.safetensors"
    _, origin = load_model(job["start"], None, None)
    document = train_stage(
        path, origin.model, data=origin.data, schedule=job["schedule"], minutes=job["minutes"], start=job["start"],
        settings=QatConfig(bits=job["bits"], **ROWS[job["row"]]), seed=job["seed"], batch=job["batch"],
        device=job["device"], resume=True,
        command=f"row {job['row']!r} of the ablation of training", quiet=True,
    )  # fmt: skip
    network, info = read_trained(path)
    images = load_dataset(info.data, "train", info.size).sample(CALIBRATION_IMAGES, job["seed"])
    return network, integer_network(network, images, info.mean, info.std), info, document["start_top1"]


def _untrained(job: Job) -> tuple[FloatNetwork, IntegerNetwork, CheckpointInfo, None]:
    """The float network, and one with the widths of the trained ones by post-training quantization."""
    model, info = load_model(job["start"], None, None)
    widths = quantizer_config(QuantizedGraph(FloatGraph.from_model(model), QatConfig(bits=job["bits"]), info.std))
    config = replace(widths, bias_correction=True)
    images = load_dataset(info.data, "train", info.size).sample(CALIBRATION_IMAGES, job["seed"])
    return model, quantize(model, images, info.mean, info.std, config), info, None


def _markdown(results: Sequence[TrainingResult], start: str, schedule: str, command: str) -> str:
    lines = [
        "# What rectification and distillation are worth",
        "",
        f"{start}, trained with quantization for {schedule} (image size:epochs); {results[0].images:,} test images,",
        f"float top-1 {results[0].start_top1:.2%}; seeds: {len({x.seed for x in results})}. Agreement: share of images",
        "for which the integer network names the class of the fake-quantized network that was trained (in the first",
        "row, of the float network).",
        "",
        f"    {command}",
        "",
        "![top-1 of the integer networks](training.png)",
        "",
        "| bits | training | trained network, top-1 | integer network, top-1 | agreement |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (bits, row), runs in _grouped(results).items():
        trained = [x.trained_top1 for x in runs if x.trained_top1 is not None]
        cells = [_spread(trained) if trained else "", _spread([x.integer_top1 for x in runs])]
        lines.append(f"| {bits} | {row} | {' | '.join(cells)} | {_spread([x.agreement for x in runs])} |")
    return "\n".join(lines) + "\n"


def _picture(results: Sequence[TrainingResult]) -> bytes:
    """Bars of the integer networks' accuracy by row, and the float network's as a line; a PNG."""
    grouped = _grouped(results)
    widths = list(dict.fromkeys(bits for bits, _ in grouped))
    figure = Figure(figsize=(4 * len(widths) + 2, 2.6), layout="constrained")
    for axes, width in zip(figure.subplots(1, len(widths), sharex=True, sharey=True, squeeze=False)[0], widths):
        rows = {row: runs for (bits, row), runs in grouped.items() if bits == width}
        means = [100 * statistics.mean(x.integer_top1 for x in runs) for runs in rows.values()]
        axes.barh(list(rows), means, color="#2a7f62")
        axes.axvline(100 * results[0].start_top1, color="#e0a030")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(f"{width} bits", fontsize="small")
        axes.set_xlabel("top-1 of the integer network, percent; line: float")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _grouped(results: Sequence[TrainingResult]) -> dict[tuple[int, str], list[TrainingResult]]:
    grouped: dict[tuple[int, str], list[TrainingResult]] = {}
    for result in results:
        grouped.setdefault((result.bits, result.row), []).append(result)
    return grouped


def _spread(shares: Sequence[float]) -> str:
    percent = [100 * x for x in shares]
    deviation = f" ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.2f}{deviation}"
