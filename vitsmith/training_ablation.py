"""What rectification and distillation are worth in training with few bits: one run per row, table, and picture."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from quant.evaluate import compare, digest, float_classifier
from quant.graph import FloatGraph
from quant.predictions import predict, top1
from quant.qat.checkpoint import read_trained
from quant.qat.config import QatConfig
from quant.qat.export import integer_network, quantizer_config
from quant.qat.network import QuantizedGraph
from quant.quantize import quantize
from vitsmith.bundle import write_if_changed
from vitsmith.stages import Progress, load_dataset, load_model
from vitsmith.training import train_stage

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
    images: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """Train the rows with each number of bits from the trained network `start`, and measure their integer networks on
    the first `images` test images (0: all).

    Writes `training.json`, `training.md`, and `training.png` into `folder`, where checkpoints and results are kept: a
    stopped run goes on.
    """
    runs = [(seed, width, row) for seed in range(seeds) for width in bits for row in (UNTRAINED, *ROWS)]
    results = []
    for index, (seed, width, row) in enumerate(runs):
        if progress:
            progress(index / len(runs), f"{width} bits, {row}, seed {seed}")
        settings = [row, asdict(QatConfig(bits=width, **ROWS.get(row, {}))), seed, schedule, minutes, images]
        key = digest(hashlib.sha256(Path(start).read_bytes()).hexdigest(), json.dumps(settings))
        file = folder / f"{key[:16]}.json"
        if not file.exists():
            measured = (
                _untrained(start, width, seed, images)
                if row == UNTRAINED
                else _trained(start, width, row, seed, images, schedule, minutes, folder / f"{key[:16]}.safetensors")
            )
            write_if_changed(file, json.dumps(asdict(measured)) + "\n")
        results.append(TrainingResult(**json.loads(file.read_text())))
    document = {"command": command, "schedule": schedule, "results": [asdict(result) for result in results]}
    write_if_changed(folder / "training.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "training.md", _markdown(results, start, schedule, command))
    write_if_changed(folder / "training.png", _picture(results))
    return document


def _trained(
    start: str, bits: int, row: str, seed: int, images: int, schedule: str, minutes: float, path: Path
) -> TrainingResult:
    settings = QatConfig(bits=bits, **ROWS[row])
    _, origin = load_model(start, None, None)
    document = train_stage(
        path, origin.model, data=origin.data, schedule=schedule, minutes=minutes, start=start, settings=settings,
        seed=seed, resume=True, command=f"row {row!r} of the ablation of training", quiet=True,
    )  # fmt: skip
    network, info = read_trained(path)
    train, test = (load_dataset(info.data, split, info.size) for split in ("train", "test"))
    made = integer_network(network, train.sample(CALIBRATION_IMAGES, seed), info.mean, info.std)
    comparison = compare(network, made, test, limit=images or None)
    return TrainingResult(
        bits=bits,
        row=row,
        seed=seed,
        images=comparison.images,
        start_top1=document["start_top1"],
        trained_top1=comparison.float_top1,
        integer_top1=comparison.integer_top1,
        agreement=comparison.agreement,
    )


def _untrained(start: str, bits: int, seed: int, images: int) -> TrainingResult:
    """The same widths by post-training quantization."""
    model, info = load_model(start, None, None)
    train, test = (load_dataset(info.data, split, info.size) for split in ("train", "test"))
    widths = quantizer_config(QuantizedGraph(FloatGraph.from_model(model), QatConfig(bits=bits), info.std))
    config = replace(widths, bias_correction=True)
    made = quantize(model, train.sample(CALIBRATION_IMAGES, seed), info.mean, info.std, config)
    classifiers = {"float": float_classifier(model, info.mean, info.std), "integer": made.run}
    found = predict(classifiers, test, limit=images or None)
    return TrainingResult(
        bits=bits,
        row=UNTRAINED,
        seed=seed,
        images=len(found["float"]),
        start_top1=top1(found["float"], test),
        trained_top1=None,
        integer_top1=top1(found["integer"], test),
        agreement=float((found["integer"] == found["float"]).double().mean()),
    )


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
