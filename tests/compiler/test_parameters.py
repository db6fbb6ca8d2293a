"""Weights of grouped convolutions, as the MAC array takes them, are the matrix that the convolution multiplies by."""

import dataclasses

import numpy as np
import pytest
import torch

from compiler.parameters import groups_per_matmul_group, matmul_weights
from quant.integer_network import Conv
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """(groups, outputs, inputs) as one matrix."""
    groups, outputs, inputs = blocks.shape
    matrix = np.zeros((groups * outputs, groups * inputs), blocks.dtype)
    for g, block in enumerate(blocks):
        matrix[g * outputs : (g + 1) * outputs, g * inputs : (g + 1) * inputs] = block
    return matrix


@pytest.mark.parametrize(
    ("groups", "outputs", "inputs", "in_lanes", "out_lanes", "together"),
    [
        (6, 16, 16, 16, 16, 1),
        (6, 16, 16, 16, 32, 2),
        (6, 16, 16, 32, 16, 2),
        (6, 16, 16, 32, 64, 6),  # four together would leave two: all become one
        (6, 32, 8, 16, 32, 2),
        (6, 48, 48, 16, 32, 2),
        (5, 16, 16, 16, 32, 5),
        (4, 8, 8, 2, 64, 4),
    ],
)
def test_groups_fill_tiles(
    groups: int, outputs: int, inputs: int, in_lanes: int, out_lanes: int, together: int
) -> None:
    network, _ = tiny_network(32, **quantizer_settings(SMALL))
    grouped = next(n for n in network.nodes if isinstance(n, Conv) and n.groups > 1 and not n.is_depthwise)
    weight = torch.randint(-127, 128, (groups * outputs, inputs, 1, 1), generator=torch.Generator().manual_seed(1))
    pad_value = torch.zeros(groups * inputs, dtype=torch.int64)
    requant = grouped.requant.part(torch.arange(len(weight)) % len(grouped.weight))
    node = dataclasses.replace(
        grouped, weight=weight.to(torch.int8), groups=groups, pad_value=pad_value, requant=requant
    )
    config = SMALL.replace(in_lanes=in_lanes, out_lanes=out_lanes, requant_channels=2, stream_bits=512)
    assert groups_per_matmul_group(node, config) == together
    weights = matmul_weights(node, False, config)
    assert weights.shape == (groups // together, together * outputs, together * inputs)
    original = weight.reshape(groups, outputs, inputs).numpy()
    np.testing.assert_array_equal(block_diagonal(weights), block_diagonal(original))
    if len(weights) > 1:
        assert weights.shape[1] % out_lanes == weights.shape[2] % in_lanes == 0
