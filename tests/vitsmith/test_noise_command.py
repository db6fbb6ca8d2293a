"""`vitsmith noise`, and networks without classes in `evaluate` and `ablation`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quant.models.deit import DeiTConfig
from quant.models.random_weights import random_model
from tests.quant.support import MEAN, STD
from vitsmith import cli, noise, stages
from vitsmith.bundle import BundleError
from vitsmith.stages import load_model

CONFIG = DeiTConfig(width=24, depth=2, heads=3, size=28, patch=14, mlp_ratio=2, num_classes=0)


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vit-s14` is a small network of random weights while a test runs."""
    monkeypatch.setattr(stages.vit_s14, "CONFIG", CONFIG)
    monkeypatch.setattr(stages.vit_s14, "load_vit_s14", lambda size: random_model(CONFIG, size, MEAN, STD))


def invoke(*arguments: object) -> dict:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments] + ["--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_of_features_only_the_noise_is_evaluated(backbone: None, tmp_path: Path) -> None:
    arguments = ("--data", "noise", "--calibration", 16, "--images", 6, "--bundle", tmp_path)
    document = invoke("evaluate", "--checkpoint", "vit-s14", *arguments)
    assert document["test_images"] == 6 and document["agreement"] is None and document["integer_top1"] is None
    layers = document["signal_to_noise"]
    assert layers[-1]["layer"] == "head.norm" and layers[-1]["integer_db"] == document["output_db"] > 15
    assert json.loads((tmp_path / "quantize.json").read_text())["model"] == "vit-s14"


def test_noise_of_each_way_and_of_a_run_that_goes_on(
    backbone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("noise", "vit-s14", "--data", "noise", "--images", 4, "--calibration", 16, "--out", tmp_path)
    document = invoke(*arguments, "--iterations", 2)
    rows = [noise.NoiseRow(**row) for row in document["rows"]]
    assert [(row.widths, row.way) for row in rows] == [
        (widths, way) for widths in ("W8A8", "W4A8") for way in ("plain", "ours", "reconstructed")
    ]
    assert all(row.output > 5 and len(row.signal_to_noise) == 2 + 7 * CONFIG.depth + 1 for row in rows)
    assert rows[0].output > rows[3].output
    page = (tmp_path / "noise.md").read_text()
    assert document["command"] in page and f"| W8A8 | {rows[0].output:.1f} | {rows[1].output:.1f} |" in page
    assert f"| head.norm | {rows[0].output:.1f} |" in page
    # What is there is not measured again, unless it depends on what has changed.
    monkeypatch.setattr(noise, "quantize", lambda *_: pytest.fail("measured again"))
    assert invoke(*arguments, "--iterations", 2) == document
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        invoke(*arguments, "--iterations", 3)


def test_features_have_no_classes_to_compare(backbone: None, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="vit-s14 has no classes to compare; `vitsmith noise`"):
        invoke("ablation", "vit-s14", "--data", "noise", "--images", 4, "--out", tmp_path)
    with pytest.raises(BundleError, match="no classes"):
        invoke("quantize", "vit-s14", "--data", "noise", "--images", 4, "--weight-budget", 5, "--bundle", tmp_path)


def test_other_sizes(backbone: None) -> None:
    model, info = load_model("vit-s14", "noise", 56)
    assert model.config.size == info.size == 56 and info.num_classes == 0
