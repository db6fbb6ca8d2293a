"""The profile of a run as a page for people: where the cycles go, layer by layer, with pictures."""

import html
from collections.abc import Mapping, Sequence

from vitsmith.report import STYLE, picture

__all__ = ["GROUPS", "profile_page"]

#: causes of `sim.profile` as they are shown: columns of the layer table and colours of the bars
GROUPS = {
    "useful": (("useful products",), "#2a7f62"),
    "padding": (("padding pixels", "padding channels"), "#9ccfb8"),
    "weight tiles": (("weight tiles",), "#3b6ea5"),
    "memory": (("memory",), "#7d4fa3"),
    "requantizer": (("requantizer", "scratchpad ports"), "#e0a030"),
    "issue": (("issue", "program"), "#999999"),
    "other engines": (("matmul", "depthwise", "attention", "norm", "load", "store"), "#c0504d"),
    "start, tail": (("start", "tail"), "#444444"),
}


def grouped(cycles: Mapping[str, float]) -> dict[str, float]:
    """Cycles by group."""
    return {name: sum(cycles[cause] for cause in causes) for name, (causes, _) in GROUPS.items()}


def profile_page(document: Mapping[str, object]) -> str:
    """HTML of a profile (see `vitsmith.stages.profile_stage`), pictures included."""
    cycles, layers, memory = document["cycles"], document["layers"], document["memory"]
    causes = "".join(
        f"<tr><td>{html.escape(cause)}</td><td>{count:,.1f}</td><td>{count / cycles:.2%}</td></tr>"
        for cause, count in document["causes"].items()
    )
    engines = "".join(
        f"<tr><td>{e['engine']}</td><td>{e['instructions']}</td><td>{e['busy']:,}</td><td>{e['stalled']:,}</td>"
        f"<td>{e['occupancy']:.1%}</td><td>{e['utilisation']:.1%}</td><td>{_running(e)}</td><td>{_gap(e)}</td></tr>"
        for e in document["engines"]
    )
    rows = "".join(_layer_row(layer) for layer in layers)
    title = html.escape(f"{document['model']} at {document['size']} pixels on configuration {document['config']}")
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>vitsmith profile</title>
<style>{STYLE}</style>
<h1>{title}</h1>
<p>{document["batch"]} frame(s), {cycles:,} cycles, measured in RTL with a memory of {memory["latency"]} cycles
latency and {memory["bytes_per_cycle"]:g} bytes per cycle. Every cycle of the MAC array has one cause.</p>
<h2>The MAC array</h2>
<img alt="cycles of the MAC array by cause" src="data:image/png;base64,{_cause_picture(document)}">
<table><tr><th>cause</th><th>cycles</th><th>of the run</th></tr>{causes}</table>
<h2>Engines</h2>
<table><tr><th>engine</th><th>instructions</th><th>busy</th><th>stalled</th><th>multipliers at work while busy</th>
<th>useful products while busy</th><th>useful products while running</th>
<th>issue gap, mean (largest)</th></tr>{engines}</table>
<h2>Roofline</h2>
<p>Layers of the MAC array: useful products per cycle over products per byte of weights and records.</p>
<img alt="roofline of the layers" src="data:image/png;base64,{_roofline_picture(document)}">
<h2>Layers</h2>
<img alt="cycles of the array by layer and cause" src="data:image/png;base64,{_layer_picture(layers)}">
<table><tr><th>layer</th><th>engines</th><th>array cycles</th><th>{"</th><th>".join(GROUPS)}</th>
<th>utilisation</th><th>bound by</th></tr>{rows}</table></html>
"""


def _gap(engine: Mapping[str, object]) -> str:
    return "" if engine["mean_gap"] is None else f"{engine['mean_gap']:.1f} ({engine['largest_gap']})"


def _running(engine: Mapping[str, object]) -> str:
    return "" if engine["running_utilisation"] is None else f"{engine['running_utilisation']:.1%}"


def _layer_row(layer: Mapping[str, object]) -> str:
    groups = grouped(layer["cycles"])
    cells = "".join(f"<td>{count:,.0f}</td>" for count in (sum(groups.values()), *groups.values()))
    return (
        f"<tr><td>{html.escape(layer['node'])}</td><td>{', '.join(layer['engines'])}</td>{cells}"
        f"<td>{layer['utilisation']:.1%}</td><td>{layer['bound']}</td></tr>"
    )


def _cause_picture(document: Mapping[str, object]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6), layout="constrained")
    axes = figure.add_subplot()
    left = 0.0
    for name, count in grouped(document["causes"]).items():
        axes.barh(
            ["run"], [count], left=[left], color=GROUPS[name][1], label=f"{name} {count / document['cycles']:.1%}"
        )
        left += count
    axes.set_xlabel("cycles")
    axes.legend(ncols=4, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return picture(figure)


def _layer_picture(layers: Sequence[Mapping[str, object]]) -> str:
    from matplotlib.figure import Figure

    shown = [layer for layer in layers if "matmul" in layer["engines"]]
    figure = Figure(figsize=(9, 0.16 * len(shown) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    names, left = [layer["node"] for layer in shown], [0.0] * len(shown)
    for name, (_, colour) in GROUPS.items():
        counts = [grouped(layer["cycles"])[name] for layer in shown]
        axes.barh(names, counts, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("cycles of the MAC array")
    axes.legend(fontsize=7)
    return picture(figure)


def _roofline_picture(document: Mapping[str, object]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    shown = [layer for layer in document["layers"] if layer["stream_bytes"] and "matmul" in layer["engines"]]
    intensity = [layer["macs"] / layer["stream_bytes"] for layer in shown]
    achieved = [layer["macs"] / sum(layer["cycles"].values()) for layer in shown]
    peak, rate = document["macs_per_cycle"], document["bytes_per_cycle"]
    ends = (min(intensity) / 2, peak / rate, max(*intensity, peak / rate) * 2)
    axes.plot(
        ends, [min(peak, rate * x) for x in ends], color="black", label=f"{peak} products, {rate:g} bytes per cycle"
    )
    axes.scatter(intensity, achieved, color="#3b6ea5", s=12)
    axes.set(xscale="log", yscale="log", xlabel="products per byte from memory", ylabel="useful products per cycle")
    axes.legend()
    return picture(figure)
