"""`vitsmith train`, and what becomes of the networks it makes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quant.models.deit import DEIT, DeiTConfig
from quant.qat.checkpoint import read_trained
from tests.quant.test_train import coloured_images
from vitsmith import cli, stages, training, training_ablation
from vitsmith.bundle import BundleError

TINY = DeiTConfig(width=24, depth=2, heads=2, size=32, patch=8, num_classes=2)


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of two colours, and a network that is small enough for it."""

    def load(name: str, split: str, size: int, **_: object):
        return coloured_images(256 if split == "train" else 48, size)

    for module in (stages, training, training_ablation):
        monkeypatch.setattr(module, "load_dataset", load)
    monkeypatch.setitem(DEIT, "deit-tiny", TINY)


def invoke(*arguments: object) -> dict:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments] + ["--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    path = tmp_path / "float.safetensors"
    document = invoke("train", "--out", path, "--model", "deit-tiny", "--data", "colours", "--schedule", "32:12")
    assert document["model"] == "deit-tiny" and document["top1"] > 0.9
    return path


def test_from_training_to_integers(start: Path, tmp_path: Path) -> None:
    out = tmp_path / "quantized.safetensors"
    options = ("--rectify", "centred", "--teacher", "--guidance", 1, "--bits", 3, "--schedule", "32:6")
    document = invoke("train", "--out", out, "--data", "colours", "--start", start, *options, "--through-integers")
    assert document["settings"]["rectify"] == "centred" and document["start_top1"] > 0.9
    assert document["compared_images"] == 48 and document["trained_top1"] > 0.9
    assert document["integer_top1"] == document["trained_top1"] and document["agreement"] == 1
    network, info = read_trained(out)
    assert network.config.bits == 3 and info.top1 == document["top1"] > 0.9
    bundle = tmp_path / "bundle"
    quantized = invoke("quantize", out, "--bundle", bundle)
    assert quantized["calibration_images"] == network.config.stream_images == training.START_IMAGES
    assert set(quantized["quantizer"]["layer_weight_bits"].values()) == {3, 8}
    found = invoke("evaluate", "--bundle", bundle, "--images", 48)
    assert found["float_top1"] == info.top1 and found["integer_top1"] == document["integer_top1"]
    assert found["agreement"] > 0.9
    assert len(found["signal_to_noise"]) == len(network.graph.nodes)


def test_ablation_goes_on_where_it_was(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ablation"
    arguments = ("training-ablation", start, "--schedule", "32:1", "--bits", 4, "--images", 16, "--out", folder)
    document = invoke(*arguments)
    assert [x["row"] for x in document["results"]] == [training_ablation.UNTRAINED, *training_ablation.ROWS]
    assert all(x["images"] == 16 and x["agreement"] > 0.5 for x in document["results"])
    assert (folder / "training.png").stat().st_size > 1000
    assert (folder / "training.md").read_text().count("\n| 4 |") == 5
    monkeypatch.setattr(training_ablation, "train_stage", None)
    assert invoke(*arguments) == document


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--bits", 4), "both --bits and --start"),
        (("--teacher",), "give --bits"),
        (("--through-integers",), "give --bits"),
        (("--model", "deit-none"), "unknown network"),
        (("--model", "deit-tiny", "--schedule", "32:1,48:1"), "images of one size"),
        (("--model", "deit-tiny", "--schedule", "none"), "SIZE:EPOCHS"),
        (("--model", "deit-tiny", "--device", "cuda"), "no GPU"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple, text: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises((BundleError, ValueError), match=text):
        invoke("train", "--out", tmp_path / "x.safetensors", "--data", "colours", "--schedule", "32:1", *options)
