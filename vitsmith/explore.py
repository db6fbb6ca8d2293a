"""The exploration of a device as a table and a picture; the job of one point, which any machine can do."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from compiler.devices import Device
from compiler.explore import Point, predict
from compiler.resources import Estimate
from hw.config import AcceleratorConfig
from quant.integer_network import IntegerNetwork

__all__ = ["exploration_markdown", "exploration_picture", "point_document", "predict_job"]

#: columns of the table: field of a point's document, title, format
COLUMNS = (
    ("lanes", "P x Ti x To", "{}"),
    ("dw_pixels", "depthwise pixels", "{}"),
    ("requant_channels", "requantized channels", "{}"),
    ("logic_engines", "small engines in logic", "{}"),
    ("pad_words", "words per pad", "{:,}"),
    ("bus", "bus", "{}"),
    ("cycles", "cycles per frame", "{:,.0f}"),
    ("frames_per_second", "frames/s", "{:,.0f}"),
    ("lut", "LUT", "{:,.0f}"),
    ("flip_flop", "flip-flops", "{:,.0f}"),
    ("block_ram", "block RAM", "{:,.0f}"),
    ("dsp", "DSP", "{:,.0f}"),
    ("share", "largest share", "{:.0%}"),
)


def predict_job(network: bytes, job: dict[str, object]) -> dict[str, object]:
    """`compiler.explore.predict` for jobs: of a network file's content, a configuration's JSON, and a batch."""
    return predict(_load(network), AcceleratorConfig.from_json(str(job["config"])), int(job["batch"]))


@lru_cache(maxsize=1)
def _load(content: bytes) -> IntegerNetwork:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.safetensors"
        file.write_bytes(content)
        return IntegerNetwork.load(file)


def point_document(point: Point, mhz: float) -> dict[str, object]:
    """A point as JSON."""
    config = point.candidate.config
    return {
        "lanes": f"{config.pixels} x {config.in_lanes} x {config.out_lanes}",
        "dw_pixels": config.dw_pixels,
        "requant_channels": config.requant_channels,
        "logic_engines": config.logic_engines,
        "pad_words": config.pad_words[0],
        "bus": f"{config.bus_ports} x {config.bus_bits} bits",
        "cycles": point.cycles,
        "frames_per_second": mhz * 1e6 / point.cycles,
        **point.candidate.used,
        "share": point.candidate.share,
        "config": asdict(config),
    }


def exploration_markdown(points: Sequence[dict], *, device: Device, network: str, batch: int, mhz: float, command: str,
                         estimate: Estimate) -> str:  # fmt: skip
    """The Pareto front as a page."""
    table = [[title for _, title, _ in COLUMNS], ["---"] * len(COLUMNS)]
    table += [[form.format(point[key]) for key, _, form in COLUMNS] for point in points]
    known = ", ".join(f"{kind} {error}" for kind, error in estimate.error_texts.items())
    return "\n".join(
        [
            f"# {network} on {device.title}",
            "",
            f"The fastest accelerators for each share of the device, {batch} frames per run. Cycles are predicted by",
            "the compiler. Resources are estimated from fits to open synthesis; their mean error on accelerators that",
            f"a fit had not seen: {known}; {estimate.origin}.",
            f"Frames per second assume {mhz:g} MHz, which nobody has placed and routed.",
            f"The device has {device.lut:,} LUT, {device.flip_flop:,} flip-flops, {device.block_ram} blocks of RAM,",
            f"and {device.dsp} multipliers ({device.source}).",
            "",
            f"    {command}",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
        ]
    )


def exploration_picture(points: Sequence[dict], device: Device) -> bytes:
    """Cycles per frame against the share of the device, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    shares, cycles = [p["share"] * 100 for p in points], [p["cycles"] for p in points]
    axes.step(shares, cycles, where="post", color="#b0b0b0")
    axes.scatter(shares, cycles, color="#2a7f62")
    for point, x, y in zip(points, shares, cycles):
        axes.annotate(str(point["lanes"]), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel=f"largest share of {device.title} [%] (estimated)", ylabel="cycles per frame (predicted)")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
