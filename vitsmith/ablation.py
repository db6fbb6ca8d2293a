"""The ablation's results as a table and a picture."""

import io
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from quant.ablation import Result

__all__ = ["ablation_markdown", "ablation_picture"]


def ablation_markdown(results: Sequence[Result], command: str, calibration_images: int) -> str:
    """One table per network; mean and standard deviation over the seeds, in percent."""
    seeds = len({x.seed for x in results})
    lines = [
        "# What each technique of the quantizer is worth",
        "",
        f"Integer networks on the first {results[0].images:,} test images, calibrated on {calibration_images} images",
        f"drawn by each of {seeds} seeds; mean and standard deviation over the seeds, in percent.",
        "",
        f"    {command}",
        "",
        "![images of another class than the float network's](ablation.png)",
    ]
    for network, rows in _grouped(results).items():
        exact = next(iter(rows.values()))[0].float_top1
        lines += [
            "",
            f"## {network}",
            f"Float top-1: {exact:.2%}.",
            "",
            "| quantization | top-1 | against float | same class as float |",
            "| --- | --- | --- | --- |",
        ]
        for name, runs in rows.items():
            accuracy, agreement = [x.top1 for x in runs], [x.agreement for x in runs]
            change = statistics.mean(accuracy) - exact
            lines.append(f"| {name} | {_spread(accuracy)} | {100 * change:+.2f} | {_spread(agreement)} |")
    return "\n".join(lines) + "\n"


def ablation_picture(results: Sequence[Result]) -> bytes:
    """Bars of how many images get another class than the float network's, with standard deviations; a PNG.

    Accuracies differ by less than the eye can see, and by chance; agreement tells more.
    """
    grouped = _grouped(results)
    longest = max(len(rows) for rows in grouped.values())
    figure = Figure(figsize=(5 * len(grouped) + 2, 0.3 * longest + 1), layout="constrained")
    panels = figure.subplots(1, len(grouped), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (network, rows) in zip(panels, grouped.items()):
        others = [[100 * (1 - x.agreement) for x in runs] for runs in rows.values()]
        spread = [statistics.stdev(x) if len(x) > 1 else 0.0 for x in others]
        axes.barh(list(rows), [statistics.mean(x) for x in others], xerr=spread, color="#2a7f62", ecolor="#e0a030")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(longest - 0.5, -0.5)
        axes.set_title(network, fontsize="small")
        axes.set_xlabel("percent of images with another class than float's")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _grouped(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """Results by network and row, in order."""
    grouped: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.network, {}).setdefault(result.row, []).append(result)
    return grouped


def _spread(shares: Sequence[float]) -> str:
    percent = [100 * x for x in shares]
    deviation = f" ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.2f}{deviation}"
