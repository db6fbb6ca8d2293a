"""Noise of a network's output and layers, for several widths and ways of quantization, as a page and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quant.data import load_dataset
from quant.evaluate import FloatNetwork, digest, model_fingerprint, signal_to_noise
from quant.models.checkpoint import CheckpointInfo
from quant.progress import Progress, part_of
from quant.quantize import QuantizerConfig, Reconstruction, quantize
from vitsmith.bundle import write_if_changed
from vitsmith.stages import load_model

__all__ = ["NoiseRow", "noise_markdown", "noise_stage"]

#: bits of weights and of maps
WIDTHS = ((8, 8), (4, 8))
#: ways to quantize: one scale per tensor, the default, and the default with reconstructed blocks
PLAIN, OURS, RECONSTRUCTED = "plain", "ours", "reconstructed"


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """Signal-to-noise ratios in dB of an integer network against the float one."""

    weight_bits: int
    act_bits: int
    way: str
    seconds: float  #: that quantization took
    signal_to_noise: Mapping[str, float]  #: of every node's output, in order

    @property
    def widths(self) -> str:
        """As papers write them."""
        return f"W{self.weight_bits}A{self.act_bits}"

    @property
    def output(self) -> float:
        """Of the network's output."""
        return list(self.signal_to_noise.values())[-1]


def noise_stage(
    folder: Path,
    checkpoint: str,
    *,
    data: str | None = None,
    size: int | None = None,
    images: int = 64,
    calibration_images: int = 512,
    reconstruction: Reconstruction | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """Quantize a network (see `load_model`) in each way with 8-bit and with 4-bit weights, and measure the noise of
    every layer on the first `images` test images. `reconstruction` is the default one if not given.

    Writes `noise.json` and `noise.md` into `folder`, where the rows are kept: a stopped run goes on.
    """
    model, info = load_model(checkpoint, data, size)
    train, test = (load_dataset(info.data, split, info.size, crop_ratio=info.crop_ratio) for split in ("train", "test"))
    calibration, tested = train.sample(calibration_images), test[:images][0]
    origin = digest(model_fingerprint(model), train.fingerprint, test.fingerprint, str((len(calibration), len(tested))))
    reconstruction = reconstruction or Reconstruction()
    runs = [
        (way, config)
        for weight_bits, act_bits in WIDTHS
        for way, config in _ways(reconstruction, weight_bits=weight_bits, act_bits=act_bits).items()
    ]
    rows = []
    for index, (way, config) in enumerate(runs):
        key = digest(origin, json.dumps(asdict(config), sort_keys=True))
        file = folder / "rows" / f"{key[:16]}.json"
        if not file.exists():
            report = part_of(progress, index / len(runs), (index + 1) / len(runs))
            row = _measure(model, info, calibration, tested, way, config, report)
            write_if_changed(file, json.dumps(asdict(row)) + "\n")
        rows.append(NoiseRow(**json.loads(file.read_text())))
    document = {
        "command": command,
        "model": info.model,
        "test_images": len(tested),
        "calibration_images": len(calibration),
        "reconstruction": asdict(reconstruction),
        "rows": [asdict(row) for row in rows],
    }
    write_if_changed(folder / "noise.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "noise.md", noise_markdown(rows, checkpoint, command=command, images=len(tested)))
    return document


def _ways(reconstruction: Reconstruction, **widths: int) -> dict[str, QuantizerConfig]:
    return {
        PLAIN: QuantizerConfig.plain(**widths),
        OURS: QuantizerConfig(**widths),
        RECONSTRUCTED: QuantizerConfig(reconstruction=reconstruction, **widths),
    }


def _measure(
    model: FloatNetwork,
    info: CheckpointInfo,
    calibration: np.ndarray,
    tested: np.ndarray,
    way: str,
    config: QuantizerConfig,
    progress: Progress,
) -> NoiseRow:
    started = time.monotonic()
    network = quantize(model, calibration, info.mean, info.std, config, progress)
    seconds = time.monotonic() - started
    return NoiseRow(
        weight_bits=config.weight_bits,
        act_bits=config.act_bits,
        way=way,
        seconds=round(seconds, 1),
        signal_to_noise=signal_to_noise(model, network, tested),
    )


def noise_markdown(rows: Sequence[NoiseRow], name: str, *, command: str, images: int) -> str:
    """Two tables: of the output, and of every layer."""
    ways = list(dict.fromkeys(row.way for row in rows))
    widths = list(dict.fromkeys(row.widths for row in rows))
    found = {(row.widths, row.way): row for row in rows}
    lines = [
        f"# Noise of {name}",
        "",
        f"Signal-to-noise ratios of integer networks against the float network, in dB, on {images} images.",
        "",
        f"    {command}",
        "",
        _line(["output", *ways]),
        _line(["---"] * (len(ways) + 1)),
        *(_line([width, *(f"{found[width, way].output:.1f}" for way in ways)]) for width in widths),
        "",
        _line(["layer", *(f"{row.widths} {row.way}" for row in rows)]),
        _line(["---"] * (len(rows) + 1)),
        *(_line([layer, *(f"{row.signal_to_noise[layer]:.1f}" for row in rows)]) for layer in rows[0].signal_to_noise),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
