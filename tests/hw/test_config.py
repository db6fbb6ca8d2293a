"""Configurations: what a program depends on, and what cannot be built."""

import pytest

from hw.config import CONFIGS, AcceleratorConfig, ConfigError, Multipliers


def test_programs_do_not_depend_on_widths_of_addresses_or_how_products_are_made() -> None:
    config = AcceleratorConfig()
    assert (
        config.replace(
            name="other",
            address_bits=32,
            multiplier=Multipliers.PLAIN,
            logic_depthwise=True,
            logic_engines=True,
            logic_requantizers=True,
        ).hash
        == config.hash
    )
    assert config.replace(state_lanes=8).hash != config.hash


def test_small_engines_multiply_in_logic() -> None:
    assert AcceleratorConfig(multiplier=Multipliers.DSP48E2).engine_multiplier is Multipliers.DSP48E2
    assert AcceleratorConfig(logic_engines=True).engine_multiplier is Multipliers.LOGIC
    assert AcceleratorConfig(logic_engines=True).dw_multiplier is Multipliers.LOGIC
    assert AcceleratorConfig(logic_depthwise=True).dw_multiplier is Multipliers.LOGIC
    assert AcceleratorConfig(logic_depthwise=True).engine_multiplier is Multipliers.PACKED
    assert AcceleratorConfig(logic_engines=True).scaler_multiplier is Multipliers.PACKED
    assert AcceleratorConfig(logic_requantizers=True).scaler_multiplier is Multipliers.LOGIC
    assert AcceleratorConfig(logic_requantizers=1).requantizer_multipliers == (Multipliers.PACKED, Multipliers.LOGIC)
    assert AcceleratorConfig(multiplier="logic").requantizer_multipliers == (Multipliers.PACKED,) * 2
    assert AcceleratorConfig(multiplier="plain").requantizer_multipliers == (Multipliers.PLAIN,) * 2
    assert AcceleratorConfig(multiplier="dsp48e2").requantizer_multipliers == (Multipliers.DSP48E2,) * 2
    assert AcceleratorConfig(logic_engines=1).to_json() == AcceleratorConfig(logic_engines=True).to_json()
    with pytest.raises(ConfigError, match="logic_engines = 2 "):
        AcceleratorConfig(logic_engines=2)


@pytest.mark.parametrize(("lanes", "out_lanes", "group"), [(16, 16, 16), (4, 16, 4), (16, 8, 8), (1, 16, 1)])
def test_states_per_cycle(lanes: int, out_lanes: int, group: int) -> None:
    assert AcceleratorConfig(state_lanes=lanes, out_lanes=out_lanes).state_group == group


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_text_form(config: AcceleratorConfig) -> None:
    assert AcceleratorConfig.from_json(config.to_json()) == config
