"""Accelerator configurations that differ in every parameter, for tests of whole networks."""

from hw.config import AcceleratorConfig, Multipliers

#: 2x8x8 lanes, plain multipliers, 64-bit bus, rings in short scratchpads
SMALL = AcceleratorConfig(
    name="small", pixels=2, in_lanes=8, out_lanes=8, dw_pixels=1, requant_channels=4, bus_bits=64, bus_ports=1,
    dw_requant_channels=2, norm_channels=4,
    stream_bits=64, acc_depth=64, weight_buffer_words=256, parameter_buffer_words=64,
    pad_words=(1024, 900, 1000, 800), state_tiles=32, queue_depth=2, state_lanes=2, attention_keys=2,
    multiplier=Multipliers.PLAIN, logic_engines=True, logic_requantizers=True,
)  # fmt: skip

#: 4x8x32 lanes, more outputs than heads have channels, DSP48E2 blocks, two ports, 4-bit weights
WIDE = AcceleratorConfig(
    name="wide", pixels=4, in_lanes=8, out_lanes=32, dw_pixels=2, requant_channels=8, bus_bits=64, bus_ports=2,
    dw_requant_channels=4, norm_channels=2,
    weight_bits=4, stream_bits=256, acc_depth=64, weight_buffer_words=128, parameter_buffer_words=128,
    table_index_bits=9, divisor_mantissa_bits=6, pad_words=(2048, 2048, 1500, 1500),
    multiplier=Multipliers.DSP48E2,
)  # fmt: skip

#: 8x16x8 lanes, 4-bit weights, activations, and states
TALL = AcceleratorConfig(
    name="tall", pixels=8, in_lanes=16, out_lanes=8, dw_pixels=4, requant_channels=2,
    dw_requant_channels=8, norm_channels=4, act_bits=4, weight_bits=4,
    state_bits=4, bus_bits=128, bus_ports=2, stream_bits=256, divisor_mantissa_bits=4, table_index_bits=8,
    acc_bits=24, pad_words=(1024, 1024, 1024, 1024), queue_depth=8, attention_keys=4,
)  # fmt: skip

#: odd pixels, tiny tiles, power-of-two divisors
ODD = AcceleratorConfig(
    name="odd", pixels=3, in_lanes=4, out_lanes=2, dw_pixels=2, requant_channels=2, norm_channels=1,
    weight_bits=6, bus_bits=128,
    bus_ports=1, stream_bits=128, table_index_bits=8, divisor_mantissa_bits=0, state_tiles=64, acc_bits=28,
)  # fmt: skip

#: one pixel, few bits, no instructions waiting behind the next one
NARROW = AcceleratorConfig(
    name="narrow", pixels=1, in_lanes=16, out_lanes=4, dw_pixels=1, requant_channels=1,
    dw_requant_channels=2, act_bits=6, weight_bits=3,
    state_bits=5, bus_bits=64, bus_ports=1, stream_bits=128, acc_depth=128, divisor_mantissa_bits=4, state_tiles=8,
    queue_depth=0,
)  # fmt: skip

ALL = (SMALL, WIDE, TALL, ODD, NARROW)


def quantizer_settings(config: AcceleratorConfig) -> dict[str, int]:
    """Fields of `QuantizerConfig` that must match an accelerator."""
    return {
        "act_bits": config.act_bits,
        "weight_bits": config.weight_bits,
        "state_bits": config.state_bits,
        "divisor_mantissa_bits": config.divisor_mantissa_bits,
        "table_index_bits": config.table_index_bits,
    }
