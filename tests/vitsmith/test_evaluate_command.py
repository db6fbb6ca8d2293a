"""`vitsmith evaluate` and `vitsmith ablation` on a folder of pictures."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from hw.config import CONFIGS, AcceleratorConfig
from quant.ablation import ROWS
from quant.data.noise import noise_images
from quant.models.checkpoint import CheckpointInfo, save_checkpoint
from quant.models.efficientvit import EFFICIENTVIT
from quant.models.random_weights import random_model
from tests.quant.support import CONFIGS as NETWORKS
from tests.quant.support import MEAN, STD
from vitsmith import cli, stages
from vitsmith.bundle import Bundle
from vitsmith.divisors import ReciprocalCost

SIZE = 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures to calibrate with and twenty to test, in ImageNet's layout, larger than the network's input."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 4), ("val", 20)):
        for index, pixels in enumerate(noise_images(count, 48, seed=len(split))):
            path = root / split / f"n{index % 4}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny network with random weights, of a variant that is known while these tests run."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    config = NETWORKS["tiny"].replace(num_classes=4)
    info = CheckpointInfo(
        model="tiny", num_classes=4, size=SIZE, mean=MEAN, std=STD, data="noise", top1=None, seed=0, command=""
    )
    save_checkpoint(path, random_model(config, SIZE, MEAN, STD), info)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFICIENTVIT, "tiny", config)
        yield path


def invoke(*arguments: object) -> dict:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments] + ["--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_one_command_quantizes_and_evaluates(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--checkpoint", checkpoint, "--data", pictures, "--size", SIZE, "--bundle", tmp_path)
    document = invoke(*arguments, "--images", 18)
    assert document["test_images"] == 18
    assert all(0 <= document[key] <= 1 for key in ("float_top1", "fake_top1", "integer_top1", "fake_agreement"))
    layers = document["signal_to_noise"]
    assert layers[0]["layer"] == "stem.conv" and min(layers[0]["fake_db"], layers[0]["integer_db"]) > 25
    assert document == json.loads((tmp_path / "evaluate.json").read_text())
    kept = json.loads((tmp_path / "predictions.json").read_text())
    assert {len(classes) for classes in kept["classes"].values()} == {18}

    # The rest only, with the bundle's network; and again from the beginning when a picture changes.
    path = tmp_path / "predictions.json"
    marked = {name: [9] * len(classes) for name, classes in kept["classes"].items()}
    path.write_text(json.dumps(kept | {"classes": marked}))
    assert invoke("evaluate", "--bundle", tmp_path)["test_images"] == 20
    classes = json.loads(path.read_text())["classes"]["integer"]
    assert classes[:18] == [9] * 18 and max(classes[18:]) < 4
    picture = next(pictures.glob("val/*/*.png"))
    Image.new("RGB", (48, 48), "red").save(picture)
    invoke("evaluate", "--bundle", tmp_path)
    assert max(json.loads(path.read_text())["classes"]["integer"]) < 4


def test_data_belongs_to_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(lambda **_: cli.evaluate(tmp_path, data="noise")) == 1
    assert "belong to a --checkpoint" in capsys.readouterr().err


def test_ablation_writes_table_picture_and_results(
    pictures: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: ROWS[name] for name in (next(iter(ROWS)), "+ bias correction = ours")}
    monkeypatch.setattr(stages, "ROWS", rows)
    names = (str(checkpoint), f"stress:{checkpoint}")
    document = invoke(
        "ablation", *names, "--data", pictures, "--size", SIZE, "--images", 4, "--seeds", 1, "--calibration", 4,
        "--out", tmp_path,
    )  # fmt: skip
    assert [(x["network"], x["row"]) for x in document["results"]] == [(n, row) for n in names for row in rows]
    table = (tmp_path / "ablation.md").read_text()
    assert all(f"## {name}" in table for name in names) and document["command"] in table
    assert (tmp_path / "ablation.png").stat().st_size > 1000


def test_divisors_of_a_bundle(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(config: AcceleratorConfig, *_: object) -> ReciprocalCost:
        bits = config.divisor_mantissa_bits
        return ReciprocalCost(mantissa_bits=bits, table_bits=0, multiplier_bits=0, lut=0, flip_flop=0, block_ram=0)

    monkeypatch.setattr(stages, "reciprocal_cost", cost)
    stages.quantize_stage(Bundle(tmp_path), str(checkpoint), CONFIGS["base"], calibration_images=4)
    document = invoke("divisors", "--bundle", tmp_path, "--images", 20)
    assert document["test_images"] == 20 and [row["mantissa_bits"] for row in document["rows"]] == list(range(9))
    assert document["rows"][0]["worst_error"] > document["rows"][8]["worst_error"]
    assert "vitsmith divisors --images 20 --target xcup" in (tmp_path / "divisors.md").read_text()
