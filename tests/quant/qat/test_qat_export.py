"""The integer network of a trained one computes what the trained one learned."""

import pytest
import torch
from qat_networks import MEAN, SIZES, STD, images, network

from quant.data.noise import noise_images
from quant.evaluate import dequantize, signal_to_noise
from quant.graph import INPUT, FloatConv, FloatSoftmaxAttention
from quant.integer_network import Conv, PatchConv
from quant.qat.export import integer_network
from quant.qat.steps import MapQuantizer

CASES = [
    ("deit-cifar", {"bits": 4}),
    ("deit-cifar-distilled", {"bits": 2, "rectify": "centred"}),
    ("deit-cifar", {"bits": 4, "rectify": "rms", "head_scales": "tensor"}),
    ("deit-cifar", {"bits": 3, "map_scales": "groups"}),
    ("swin-cifar", {"bits": 4}),
    ("swin-cifar", {"bits": 3, "rectify": "centred", "map_scales": "groups"}),
    ("b0", {"bits": 4}),
    ("b0", {"bits": 4, "map_scales": "groups"}),
]


def local_codes(trained, made, node, trace):
    """A node's codes in the trained network, given what the integer network puts into it; and the integer node's."""
    sources = [dequantize(made, name, trace[name]) for name in node.inputs]
    if node.inputs[0] == INPUT:
        sources = [images(trained.name)]
    fake, layer = trained.fake(node), trained[node.name]
    if isinstance(node, FloatSoftmaxAttention):
        output = trained._attend(fake, layer, sources[0])["output"]
    else:
        output = fake.run(*sources)["output"]
    return layer.output.form().quantize(output), trace[node.name]


@pytest.mark.parametrize(("name", "settings"), CASES)
@torch.no_grad()
def test_integers_are_what_was_learned(name, settings):
    """Node by node: few codes differ, as real numbers next to the edge of a code are rounded either way. An attention
    adds up many probabilities, and codes of 8 bits have more edges, finer than a table's."""
    trained = network(name, **settings).eval()
    trained.name = name
    pictures = noise_images(4, SIZES[name])
    made = integer_network(trained, pictures, MEAN, STD)
    trace = made.run(torch.from_numpy(pictures), trace=True)
    for node in trained.graph.nodes:
        layer = trained[node.name]
        if isinstance(node, FloatConv):
            integer = made[node.name]
            assert isinstance(integer, (Conv, PatchConv)) and integer.weight_bits == layer.weight.bits
            assert torch.equal(integer.weight, layer.weight.codes(node.weight, trained.factor(node)))
        if isinstance(layer.output, MapQuantizer):
            expected, found = local_codes(trained, made, node, trace)
            difference = (found - expected).abs()
            many = layer.output.bits > 4 or layer.probabilities is not None
            assert float(difference.double().mean()) < (0.35 if many else 0.05), node.name


def test_noise_is_small_with_many_bits():
    trained = network("deit-cifar", bits=8, rectify="centred").eval()
    pictures = noise_images(4, 32)
    made = integer_network(trained, pictures, MEAN, STD)
    assert min(signal_to_noise(trained.graph, made, pictures).values()) > 15
