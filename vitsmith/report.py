"""The report of a bundle: report.json for machines, report.html with pictures for people."""

import base64
import html
import io
from collections.abc import Sequence

from vitsmith.bundle import Bundle, write_if_changed

__all__ = ["STYLE", "SUMMARY", "picture", "report_stage"]

#: of the pages
STYLE = """body{font:15px sans-serif;margin:2em auto;max-width:60em}table{border-collapse:collapse}
td,th{border-bottom:1px solid #ddd;padding:.2em .8em;text-align:left}img{max-width:100%}"""

#: rows of the summary: key of report.json, label, format
SUMMARY = (
    ("float_top1", "float top-1", "{:.2%}"),
    ("integer_top1", "integer top-1", "{:.2%}"),
    ("rtl_top1", "RTL top-1 on its frames", "{:.2%}"),
    ("test_images", "test images", "{:,}"),
    ("cycles_per_frame", "cycles per frame", "{:,.0f}"),
    ("predicted_cycles", "predicted cycles", "{:,.0f}"),
    ("mac_utilisation", "MAC utilisation of the whole frame", "{:.1%}"),
    ("rtl_frames", "RTL frames compared", "{:,}"),
    ("boundaries_compared", "layer boundaries compared", "{:,}"),
    ("rtl_mismatches", "mismatches", "{:,}"),
    ("verilog", "Verilog", "{}"),
)


def report_stage(bundle: Bundle) -> dict[str, object]:
    """Put the results of all stages together; write report.json and report.html; return report.json's content."""
    stages = {name: bundle.load_document(name) for name in ("quantize", "evaluate", "generate", "compile", "simulate")}
    report: dict[str, object] = {}
    for document in stages.values():
        report |= {key: value for key, value in document.items() if key not in ("layers", "runs")}
    report["predicted_cycles"] = stages["compile"]["predicted_cycles"]
    page = _page(report, stages["simulate"]["layers"], stages["simulate"]["runs"])
    write_if_changed(bundle.path / "report.html", page)
    bundle.write_document("report", report)
    return report


def _page(report: dict[str, object], layers: Sequence[dict], runs: Sequence[dict]) -> str:
    rows = "".join(
        f"<tr><td>{label}</td><td>{html.escape(form.format(report[key]))}</td></tr>"
        for key, label, form in SUMMARY
        if report.get(key) is not None
    )
    layer_rows = "".join(
        f"<tr><td>{html.escape(x['node'])}</td><td>{', '.join(x['engines'])}</td><td>{x['macs']:,}</td>"
        f"<td>{x['start']:,}</td><td>{x['end']:,}</td><td>{x['predicted_end']:,}</td>"
        f"<td>{x['engine_cycles']:,}</td><td>{x['predicted_engine_cycles']:,}</td><td>{x['utilisation']:.1%}</td></tr>"
        for x in layers
    )
    title = html.escape(f"{report['model']} at {report['size']} pixels on configuration {report['config']}")
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>vitsmith report</title>
<style>{STYLE}</style>
<h1>{title}</h1>
<table>{rows}</table>
<h2>Engines during a run (measured, mean of {len(runs)} runs)</h2>
<img alt="busy and stalled cycles of every engine" src="data:image/png;base64,{_engine_picture(runs)}">
<h2>Layers on the engines (measured, first run)</h2>
<img alt="when each layer runs" src="data:image/png;base64,{_timeline_picture(layers)}">
<table><tr><th>layer</th><th>engines</th><th>MACs</th><th>start</th><th>end</th><th>end, predicted</th>
<th>engine cycles</th><th>predicted</th><th>utilisation</th></tr>{layer_rows}</table></html>
"""


def _engine_picture(runs: Sequence[dict]) -> str:
    from matplotlib.figure import Figure

    engines = list(runs[0]["busy"])
    busy = [sum(f["busy"][e] for f in runs) / len(runs) for e in engines]
    stall = [sum(f["stall"][e] for f in runs) / len(runs) for e in engines]
    figure = Figure(figsize=(9, 0.5 * len(engines) + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(engines, [b - s for b, s in zip(busy, stall, strict=True)], color="#2a7f62", label="working")
    axes.barh(engines, stall, left=[b - s for b, s in zip(busy, stall, strict=True)], color="#e0a030", label="stalled")
    axes.axvline(sum(f["cycles"] for f in runs) / len(runs), color="black", label="run")
    axes.invert_yaxis()
    axes.set_xlabel("cycles")
    axes.legend()
    return picture(figure)


def _timeline_picture(layers: Sequence[dict]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.16 * len(layers) + 1), layout="constrained")
    axes = figure.add_subplot()
    names = [x["node"] for x in layers]
    axes.barh(names, [x["end"] - x["start"] for x in layers], left=[x["start"] for x in layers], color="#3b6ea5")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("cycles")
    return picture(figure)


def picture(figure: object) -> str:
    """A matplotlib figure as a PNG in base64, for a page that holds its pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
