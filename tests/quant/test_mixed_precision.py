"""Mixed precision: measured sensitivities, and layers' bits within a budget; such networks run on the accelerator."""

from itertools import product

import numpy as np
import pytest
import torch

from compiler.compile import compile_network
from compiler.errors import CompileError
from quant.data.noise import noise_images
from quant.integer_network import Conv, IntegerNetwork
from quant.mixed_precision import (
    Sensitivity,
    activation_sensitivities,
    allocate,
    average_bits,
    narrowed,
    weight_sensitivities,
    within_budget,
)
from quant.models.random_weights import random_model
from quant.quantize import QuantizerConfig, quantize
from sim.compare import compare_frame, first_mismatch
from sim.interpreter import Interpreter
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import CONFIGS, MEAN, STD, tiny_network

LAYERS = {
    "small": Sensitivity(100, 0.5),
    "large": Sensitivity(1000, 0.1),
    "larger": Sensitivity(2000, 0.4),
    "odd": Sensitivity(300, 0.0),
}


@pytest.mark.parametrize("budget", [4.0, 4.7, 5.0, 6.5, 7.9, 8.0])
def test_budgets_are_met_with_little_divergence(budget):
    bits = allocate(LAYERS, budget)
    assert average_bits(LAYERS, bits) <= budget

    def divergence(choice: dict[str, int]) -> float:
        return sum(layer.divergence for name, layer in LAYERS.items() if choice[name] == 4)

    choices = (dict(zip(LAYERS, c)) for c in product((4, 8), repeat=4))
    best = min(divergence(c) for c in choices if average_bits(LAYERS, c) <= budget)
    assert divergence(bits) <= best + 0.11


def test_budgets_below_the_fewest_bits_are_refused():
    with pytest.raises(ValueError, match="3.9"):
        allocate(LAYERS, 3.9)


def test_narrowing_keeps_what_a_layer_computes():
    network, images = tiny_network(64)
    trace = network.run(images, trace=True)
    for node in network.nodes:
        if not isinstance(node, Conv):
            continue
        inputs = [trace[name] for name in node.inputs]
        coarse = narrowed(node, 4, inputs[0])
        assert coarse.weight_bits == 4 and int(coarse.weight.abs().max()) <= 7
        found, expected = (x.run(*inputs).double() for x in (coarse, node))
        mean = expected.mean((0, 2, 3), keepdim=True)
        assert float((found - expected).square().mean()) < 0.3 * float((expected - mean).square().mean()) + 4, node.name
        same = narrowed(node, 8, inputs[0]).run(*inputs)
        assert float((same - expected).abs().max()) <= 0.02 * float(expected.abs().max()) + 4


def test_sensitivities_are_measured_for_every_layer():
    network, images = tiny_network(32)
    seen = []
    weights = weight_sensitivities(network, images, 4, progress=lambda done, text: seen.append(text))
    assert list(weights) == [node.name for node in network.nodes if isinstance(node, Conv)]
    assert len(seen) == len(weights) and weights["stem.conv"].elements == 3 * 3 * 3 * 8
    finer = weight_sensitivities(network, images, 6)
    total = [sum(layer.divergence for layer in x.values()) for x in (weights, finer)]
    assert total[1] < 0.5 * total[0]
    activations = activation_sensitivities(network, images, 4)
    assert set(activations) == {node.name for node in network.nodes[1:-1]}
    assert activations["stem.conv"].elements == 8 * 16 * 16
    assert min(layer.divergence for layer in activations.values()) >= 0


def mixed_network(**budgets: float) -> tuple[IntegerNetwork, torch.Tensor]:
    """A tiny network for SMALL with bits per layer, and an image."""
    model, images = random_model(CONFIGS["tiny"], 64, MEAN, STD), noise_images(16, 64, 1)
    config = within_budget(model, images, MEAN, STD, QuantizerConfig(**quantizer_settings(SMALL)), **budgets)
    return quantize(model, images, MEAN, STD, config), torch.from_numpy(noise_images(1, 64, 2))


def test_layers_have_their_own_bits_and_run_on_the_accelerator():
    network, image = mixed_network(weights=5.5)
    convs = [node for node in network.nodes if isinstance(node, Conv)]
    widths = {node.name: node.weight_bits for node in convs}
    assert set(widths.values()) == {4, 8} and network.info["quantizer"]["layer_weight_bits"] == widths
    stored = sum(node.weight_bits * node.weight.numel() for node in convs) / sum(node.weight.numel() for node in convs)
    assert 5.0 < stored <= 5.5
    assert_runs_on_the_accelerator(network, image)


def assert_runs_on_the_accelerator(network: IntegerNetwork, image: torch.Tensor) -> None:
    program = compile_network(network, SMALL, trace=True)
    area = np.frombuffer(Interpreter(SMALL, program).run(image[0].numpy()), np.uint8)
    reference = {name: codes[0].numpy() for name, codes in network.run(image, trace=True).items()}
    assert first_mismatch(compare_frame(SMALL, program, area, reference)) is None


def test_maps_have_their_own_bits_and_run_on_the_accelerator():
    network, image = mixed_network(activations=6.0)
    bits = network.info["quantizer"]["layer_act_bits"]
    assert set(bits.values()) == {4, 8}
    for name, codes in network.run(image, trace=True).items():
        assert int(codes.max()) < 1 << bits.get(name, 16)
    assert_runs_on_the_accelerator(network, image)
    with pytest.raises(CompileError, match="output codes have 8 bits, the accelerator's 6"):
        compile_network(network, SMALL.replace(act_bits=6))
