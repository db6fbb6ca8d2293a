"""The command line: its stages, its errors, its JSON."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hw.config import CONFIGS, ConfigError
from quant.models.checkpoint import CheckpointInfo, save_checkpoint
from quant.models.efficientvit import EFFICIENTVIT
from quant.models.random_weights import random_model
from tests.configs import SMALL
from vitsmith import cli, stages
from vitsmith.bundle import Bundle, BundleError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Quantized, compiled, and generated for a small accelerator."""
    bundle = Bundle(tmp_path_factory.mktemp("bundle"))
    stages.quantize_stage(bundle, "random:b0", SMALL.replace(pad_words=(2048,) * 4), size=32, calibration_images=4)
    stages.generate_stage(bundle)
    stages.compile_stage(bundle)
    return bundle


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_every_stage_leaves_its_files(bundle: Bundle) -> None:
    names = {path.name for path in bundle.path.iterdir()}
    assert {
        "network.safetensors", "config.json", "accelerator.v", "interface.md", "program.bin", "program-trace.bin",
        "quantize.json", "generate.json", "compile.json", "manifest.json",
    } <= names  # fmt: skip
    assert set(json.loads(bundle.manifest_file.read_text())) == names - {"manifest.json"}


def test_files_are_rewritten_only_when_they_change(bundle: Bundle) -> None:
    before = {path: path.stat().st_mtime_ns for path in (bundle.verilog_file, bundle.config_file)}
    assert not stages.generate_stage(bundle)["changed"]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_estimate_prints_json(bundle: Bundle) -> None:
    status, output = invoke("estimate", "--bundle", bundle.path, "--json")
    document = json.loads(output)
    assert status == 0
    assert document["predicted_cycles"] == bundle.load_program().predicted_cycles
    assert sum(layer["macs"] for layer in document["layers"]) == document["macs"]


def test_generate_alone_needs_no_network(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(SMALL.to_json())
    status, output = invoke(
        "generate", "--bundle", tmp_path / "b", "--config", config, "--set", "queue_depth=3", "--json"
    )
    assert status == 0
    assert json.loads(output)["config_hash"] == f"{SMALL.replace(queue_depth=3).hash:016x}"


def test_stages_say_what_is_missing(tmp_path: Path) -> None:
    for call, command in (
        (stages.compile_stage, "quantize"),
        (stages.estimate_stage, "quantize"),
        (stages.evaluate_stage, "quantize"),
        (stages.simulate_stage, "quantize"),
    ):
        with pytest.raises(BundleError, match=f"run `vitsmith {command}"):
            call(Bundle(tmp_path))


def test_foreign_program_and_verilog_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = Bundle(tmp_path)
    for path in bundle.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy.config_file.write_text(copy.load_config().replace(queue_depth=7).to_json())
    with pytest.raises(BundleError, match="was compiled for configuration"):
        copy.load_program()
    with pytest.raises(BundleError, match="generated for another configuration"):
        copy.load_verilog()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nonsense", [], "no configuration or file called 'nonsense'"),
        ("base", ["pixels"], "expected FIELD=VALUE"),
        ("base", ["lanes=3"], "FIELD one of acc_bits"),
        ("base", ["pixels=x"], "'x' is not an integer, true, or false"),
        ("base", ["pixels=99"], "pixels = 99 is not an integer from 1 to 32"),
        ("base", ["in_lanes=12"], "not a power of two"),
        ("base", ["dw_pixels=8"], "exceeds pixels = 7"),
        ("base", ["requant_channels=32"], "use at most 16"),
        ("base", ["bus_ports=3"], "bus_ports"),
        ("base", ["pad_words=1,2"], "is not 4 sizes"),
    ],
)
def test_impossible_configurations(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cli.find_config(name, changes)


def test_fields_of_every_type_can_be_set() -> None:
    config = cli.find_config("base", ["multiplier=plain", "logic_engines=1", "pad_words=64,64,64,64", "pixels=8"])
    assert config.multiplier == "plain" and config.logic_engines is True
    assert config.pad_words == (64,) * 4 and config.pixels == 8


def test_configuration_files(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(CONFIGS["nano"].to_json())
    assert cli.find_config(str(path)) == CONFIGS["nano"]
    for text, message in (("{", "not JSON"), ("[]", "JSON object"), ('{"lanes": 1}', "unknown fields")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"c.json: .*{message}"):
            cli.find_config(str(path))
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError, match="c.json: .*utf-8"):
        cli.find_config(str(path))


def test_errors_are_one_message_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = tmp_path / "model.safetensors"
    model = random_model(EFFICIENTVIT["b0"].replace(num_classes=10), 32, (0.5,) * 3, (0.2,) * 3)
    info = CheckpointInfo(
        model="b0",
        num_classes=10,
        size=32,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        data="noise",
        top1=None,
        seed=0,
        command="",
    )
    save_checkpoint(checkpoint, model, info)
    assert stages.load_model(str(checkpoint), None, None)[1] == info
    torch.save(model.state_dict(), tmp_path / "official.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    for source, message in (
        (tmp_path / "official.pt", "give --data"),
        (checkpoint, "it is damaged"),
        ("absent.pt", "does not exist"),
        ("random:b9", "known are b0"),
        ("random:[b9]", "no network called '[b9]'"),
    ):
        status = cli.run(lambda source=source, **_: cli.quantize(str(source), tmp_path))
        assert status == 1
        assert message in capsys.readouterr().err
    for source in ("random:deit-t", "random:swin-t", "vit-s14"):
        assert cli.run(lambda source=source, **_: cli.quantize(source, tmp_path, size=100)) == 1
        assert "an input of 100 pixels" in capsys.readouterr().err
    assert cli.run(lambda **_: cli.quantize(str(checkpoint), tmp_path, data="noise")) == 1
    assert "safetensors" in capsys.readouterr().err


def test_wrong_options_are_named(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(lambda **how: cli.app(["train", "--bits", "9", "--out", "x"], **how)) == 1
    assert "'--bits'" in capsys.readouterr().err


def test_doctor() -> None:
    status, output = invoke("doctor", "--json")
    findings = {f["name"]: f["ok"] for f in json.loads(output)["findings"]}
    assert status == (0 if all(findings.values()) else 1)
    assert findings["python"] and findings["verilator"]


def test_layers_and_maps_get_bits_within_budgets(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(SMALL.replace(pad_words=(2048,) * 4).to_json())
    status, output = invoke(
        "quantize", "random:b0", "--bundle", tmp_path / "b", "--config", config, "--size", 32, "--images", 4,
        "--weight-budget", 5, "--activation-budget", 6, "--json",
    )  # fmt: skip
    assert status == 0
    quantizer = json.loads(output)["quantizer"]
    assert set(quantizer["layer_weight_bits"].values()) == set(quantizer["layer_act_bits"].values()) == {4, 8}
    assert invoke("compile", "--bundle", tmp_path / "b", "--json")[0] == 0
