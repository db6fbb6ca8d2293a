"""The estimate of resources against what was synthesized, and the fit that makes it."""

import json

import pytest

from compiler import calibration, resources
from compiler.calibration import SAMPLES, SITES, fit
from compiler.devices import DEVICES
from compiler.resources import KINDS, TABLE, UNITS, ResourceError, estimate_resources
from hw.config import CONFIGS, AcceleratorConfig
from hw.synthesis import TARGETS

STORED = json.loads(TABLE.read_text())
MEASURED = [
    pytest.param(target, AcceleratorConfig.from_json(json.dumps(s["config"])), s["units"], id=f"{target}-{index}")
    for target, samples in STORED["samples"].items()
    for index, s in enumerate(samples)
]


def test_the_table_is_the_fit_of_its_measurements() -> None:
    """Whoever changes features has to fit again: `vitsmith calibrate`."""
    assert {"hardware": STORED["hardware"], **fit(STORED["samples"])} == STORED


@pytest.mark.parametrize(("target", "config", "units"), MEASURED)
def test_multipliers_are_exact(target: str, config: AcceleratorConfig, units: dict) -> None:
    estimate = estimate_resources(config, target)
    for unit in UNITS:
        assert estimate.units[unit]["dsp"] == pytest.approx(units[unit]["dsp"], abs=0.01), unit


@pytest.mark.parametrize(("target", "config", "units"), MEASURED)
def test_other_kinds_are_near(target: str, config: AcceleratorConfig, units: dict) -> None:
    """Block RAM is the least certain: synthesis puts small memories into LUTs or blocks by rules of its own."""
    total = estimate_resources(config, target).total
    for kind in KINDS:
        measured = sum(unit[kind] for unit in units.values())
        assert total[kind] == pytest.approx(measured, rel=0.2 if kind == "block_ram" else 0.15, abs=8), kind


def test_every_family_of_devices_is_known() -> None:
    assert {device.target for device in DEVICES.values()} == set(SAMPLES) == set(TARGETS) >= set(STORED["coefficients"])
    assert set(SITES) == {"xilinx", "ecp5", "gowin"}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda c: c.name)
def test_named_sizes_have_a_device(config: AcceleratorConfig) -> None:
    """`nano` fits an ECP5-85F, `femto` an ECP5-25F, `base` and `max` a ZCU102."""
    device = DEVICES[{"nano": "ecp5-85", "femto": "ecp5-25"}.get(config.name, "zu9")]
    shares = device.shares(estimate_resources(config, device.target).total)
    assert all(share <= 1 for share in shares.values()), shares


def test_measurements_of_other_hardware_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, measured in STORED["hardware"].items():
        monkeypatch.setattr(resources, "hardware_digest", lambda digest=measured: digest)
        config = AcceleratorConfig.from_json(json.dumps(STORED["samples"][target][0]["config"]))
        assert not estimate_resources(config, target).stale
        monkeypatch.setattr(resources, "hardware_digest", lambda: "other")
        estimate = estimate_resources(config, target)
        assert estimate.stale
        assert "vitsmith calibrate" in estimate.origin


def test_unknown_families_are_refused() -> None:
    with pytest.raises(ResourceError, match="'ice40' were measured; known are"):
        estimate_resources(CONFIGS["base"], "ice40")


def test_unmeasured_styles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = json.loads(TABLE.read_text())
    table["coefficients"]["xcup"]["lut"]["MAC array"].pop("word bits")
    monkeypatch.setattr(resources, "_table", lambda: table)
    with pytest.raises(ResourceError, match="word bits.*vitsmith calibrate"):
        estimate_resources(CONFIGS["base"], "xcup")


def test_fits_have_no_negative_coefficients_and_find_exact_laws() -> None:
    rows = [{"one": 1, "lanes": n, "unrelated": n % 2} for n in (1, 2, 5, 9)]
    found = calibration._non_negative(rows, [100 + 7 * row["lanes"] for row in rows])
    assert found == pytest.approx({"one": 100, "lanes": 7, "unrelated": 0}, rel=1e-4, abs=1e-4)
    assert min(calibration._non_negative(rows, [50 - row["lanes"] for row in rows]).values()) >= 0


def test_cells_belong_to_the_unit_around_them() -> None:
    """Shared modules are counted where they are instantiated, modules without a place in the unit around them."""
    cells = {
        "vitsmith": {"FDRE": 2, "vitsmith.core": 1},
        "vitsmith.core": {"vitsmith.core.matmul": 1, "vitsmith.core.norm$7": 1},
        "vitsmith.core.matmul": {"LUT2": 3, "vitsmith.core.matmul.array": 1},
        "vitsmith.core.matmul.array": {"lane": 4},
        "vitsmith.core.norm$7": {"lane": 1, "RAMB18E2": 1},
        "lane": {"DSP48E2": 2, "RAM64M8": 1},
    }
    units = {unit: calibration.Counter() for unit in UNITS}
    calibration._add_up("vitsmith", "control", 1, {k: calibration.Counter(v) for k, v in cells.items()}, units)
    sites = {unit: calibration._sites(content, "xcup") for unit, content in units.items() if content}
    assert sites == {
        "control": {"lut": 0, "flip_flop": 2, "block_ram": 0, "dsp": 0},
        "matmul": {"lut": 3, "flip_flop": 0, "block_ram": 0, "dsp": 0},
        "MAC array": {"lut": 32, "flip_flop": 0, "block_ram": 0, "dsp": 8},
        "norm": {"lut": 8, "flip_flop": 0, "block_ram": 0.5, "dsp": 2},
    }
