"""`vitsmith profile`: the document, the page, and the timeline of a bundle."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network
from vitsmith import cli, stages
from vitsmith.bundle import Bundle


def test_profile_leaves_document_page_and_timeline(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    network, _ = tiny_network(32, **quantizer_settings(SMALL))
    network.save(bundle.network_file)
    bundle.config_file.write_text(SMALL.to_json())
    bundle.write_document("quantize", {"model": "tiny", "size": 32, "data": "noise"})
    stages.generate_stage(bundle)
    stages.compile_stage(bundle)
    result = CliRunner().invoke(cli.app, ["profile", "--bundle", str(tmp_path), "--latency", "80", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document == bundle.load_document("profile")
    assert (document["rtl_mismatches"], document["memory"]["latency"]) == (0, 80)
    assert sum(document["causes"].values()) == document["cycles"]
    assert {layer["bound"] for layer in document["layers"]} >= {"array", "depthwise"}
    page = (tmp_path / "profile.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("https://ui.perfetto.dev", "")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
