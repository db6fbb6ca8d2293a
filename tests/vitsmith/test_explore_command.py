"""`vitsmith explore` and `vitsmith estimate` on a small network: the same points with one process and with several."""

import json

import pytest

from compiler.devices import DEVICES
from compiler.resources import estimate_resources
from tests.configs import SMALL
from tests.quant.support import tiny_network
from tests.vitsmith.test_cli import invoke
from vitsmith.bundle import Bundle, BundleError
from vitsmith.stages import estimate_stage, explore_stage


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = Bundle(tmp_path_factory.mktemp("explore"))
    network, _ = tiny_network(32)
    network.save(bundle.network_file)
    bundle.config_file.write_text(SMALL.replace(divisor_mantissa_bits=8, table_index_bits=10).to_json())
    bundle.write_document("quantize", {"model": "tiny", "size": 32})
    return bundle


def test_exploring_a_device(bundle: Bundle) -> None:
    document = explore_stage(bundle, "ecp5-85", points=8, workers=1, command="vitsmith explore ecp5-85")
    points = document["points"]
    assert points
    assert [p["cycles"] for p in points] == sorted(p["cycles"] for p in points)
    assert [p["share"] for p in points] == sorted((p["share"] for p in points), reverse=True)
    page = (bundle.path / "explore-ecp5-85.md").read_text()
    assert "# tiny at 32 pixels on ECP5-85F" in page
    assert (bundle.path / "explore-ecp5-85.png").read_bytes().startswith(b"\x89PNG")
    kept = len(list((bundle.path / "explore").iterdir()))
    status, output = invoke("explore", "ecp5-85", "--bundle", bundle.path, "--points", 8, "--workers", 2, "--json")
    assert status == 0
    assert json.loads(output)["points"] == json.loads(json.dumps(points))
    assert len(list((bundle.path / "explore").iterdir())) == kept  # nothing was compiled again


def test_estimating_resources(bundle: Bundle) -> None:
    document = estimate_stage(bundle, device="ecp5-85")
    config, device = bundle.load_config(), DEVICES["ecp5-85"]
    assert document["resources"]["total"] == estimate_resources(config, device.target).total
    assert document["resources"]["share"]["dsp"] == document["resources"]["total"]["dsp"] / device.dsp
    weights = sum(node.weight.numel() for node in bundle.load_network().nodes if hasattr(node, "weight"))
    assert document["bytes"] > weights  # each is read at least once, with its requantization
    assert all(layer["bytes_per_cycle"] >= 0 for layer in document["layers"])


def test_estimate_prints_resources(bundle: Bundle) -> None:
    status, output = invoke("estimate", "--bundle", bundle.path, "--device", "ecp5-85")
    assert status == 0
    assert "share of ECP5-85F" in output
    assert "mean error of such" in output


def test_unknown_devices_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no device called 'ecp6'; known are ecp5-25"):
        estimate_stage(bundle, device="ecp6")
