"""The fake-quantized network."""

import torch

from quant.data.noise import noise_images
from quant.fake import fake_quantized, quantized_input, recorded_format
from quant.graph import FloatConv, FloatGraph
from quant.models.random_weights import random_model
from quant.quantize import QuantizerConfig, quantize
from quant.scales import per_filter
from tests.quant.support import CONFIGS, MEAN, STD

MODEL = random_model(CONFIGS["tiny"], 32, MEAN, STD)
IMAGES = noise_images(12, 32, 1)
NETWORK = quantize(MODEL, IMAGES, MEAN, STD)
FAKE = fake_quantized(FloatGraph.from_model(MODEL), NETWORK)


def test_outputs_are_what_codes_can_stand_for():
    for node, tensors in FAKE.run(quantized_input(NETWORK)(torch.from_numpy(IMAGES))):
        form = recorded_format(NETWORK, node.name)
        again = form.dequantize(form.quantize(tensors["output"]))
        assert torch.equal(again, tensors["output"]), node.name
    assert recorded_format(NETWORK, "head.fc2").signed and recorded_format(NETWORK, "head.fc2").bits == 16


def test_weights_are_codes_in_one_unit_per_filter():
    exact = {node.name: node for node in FloatGraph.from_model(MODEL).nodes}
    for node in FAKE.nodes:
        if not isinstance(node.node, FloatConv):
            continue
        weight, codes = node.node.weight.double(), NETWORK[node.name].weight.double()
        scaled = weight * per_filter(recorded_format(NETWORK, node.inputs[0]).scale, weight, node.node.groups)
        unit = scaled.abs().amax((1, 2, 3), keepdim=True) / codes.abs().amax((1, 2, 3), keepdim=True)
        assert torch.allclose(scaled, codes * unit, rtol=1e-5), node.name
        difference = (weight - exact[node.name].weight).norm() / weight.norm()
        assert 0 < float(difference) < 0.03, node.name


def test_biases_hold_the_offset_of_the_input_and_its_zero_points():
    """With the float network's own images, the stem computes what the float stem does."""
    images = torch.from_numpy(IMAGES)
    fake_stem, stem = FAKE.nodes[0].node, FloatGraph.from_model(MODEL).nodes[0]
    exact = stem.run(
        (images.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    )
    found = fake_stem.run(quantized_input(NETWORK)(images))
    inner = (slice(None), slice(None), slice(1, None), slice(1, None))  # padding is the nearest code to zero, not zero
    error = (found["linear"] - exact["linear"])[inner].square().mean() / exact["linear"].square().mean()
    assert float(error) < 1e-3


def test_input_codes_are_the_high_bits():
    network = quantize(MODEL, IMAGES, MEAN, STD, QuantizerConfig(act_bits=5))
    values = quantized_input(network)(torch.from_numpy(IMAGES))
    assert values[:, 0].unique().numel() <= 32 and recorded_format(network, "input").bits == 5
