"""The integer network of a trained one computes what the trained one learned."""

import numpy as np
import pytest
import torch
from qat_networks import MEAN, SIZES, STD, images, network

from quant.data import normalise
from quant.data.dataset import ArrayDataset
from quant.data.noise import noise_images
from quant.evaluate import compare, dequantize, signal_to_noise
from quant.graph import INPUT, FloatConv, FloatSoftmaxAttention
from quant.integer_network import Conv, PatchConv
from quant.qat.export import integer_network
from quant.qat.steps import MapQuantizer
from quant.softmax import LEAST_PROBABILITY_SCALE

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
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")


def local_codes(trained, made, node, trace):
    """A node's codes in the trained network, given what the integer network puts into it; and the integer node's."""
    sources = [dequantize(made, name, trace[name]) for name in node.inputs]
    if node.inputs[0] == INPUT:
        sources = [images(trained.name)]
    layer = trained[node.name]
    if isinstance(node, FloatSoftmaxAttention):
        output = attention_output(trained, made, node, trace)
    else:
        output = trained.fake(node).run(*sources)["output"]
    return layer.output.form().quantize(output), trace[node.name]


def attention_output(trained, made, node, trace):
    """The output, given the integer node's probabilities; these are half a code at most from the real ones, and what
    tables and the integers that stand for position biases cost."""
    integer, quantizer = made[node.name], trained[node.name].probabilities
    # An integer attention reads the one code of k and v that has no negative as the one above it.
    channels, low = trace[node.inputs[0]].shape[1], trained[node.inputs[0]].output.low
    codes = trace[node.inputs[0]].maximum(low.int().reshape(1, channels, 1, 1))
    shape, fake, form = codes.shape[2:], trained.fake(node), trained[node.inputs[0]].output.form()
    q, k, v = fake.heads_of(dequantize(made, node.inputs[0], codes))
    real = fake.attention(fake.scores(q, k), *shape).double()
    step = quantizer.form().scale.reshape(-1, 1, 1)
    found = integer.probabilities(integer.scores(codes)[0], *shape).reshape(real.shape)
    relative = 0.01
    if node.bias is not None:  # rounded to a step of the scores; so is the largest one
        q_steps, k_steps, _ = (x.reshape(node.heads, -1)[:, 0] for x in form.scale.chunk(3))
        relative = relative + (q_steps * k_steps * node.scale).reshape(-1, 1, 1)
    excess = (found - (real / step).clamp(max=quantizer.high)).abs() - 0.5 - relative * real / step
    assert float(excess.max()) <= 0, node.name
    middle = trained[node.inputs[0]].output.middle.chunk(3)[2]
    v = v - fake.heads_of(torch.cat([middle] * 3).reshape(1, -1, 1, 1).expand(len(codes), -1, *shape))[2]
    return fake.combine((found * step).float(), v, *shape) + middle[:, None, None]


@pytest.mark.parametrize(("name", "settings"), CASES)
@torch.no_grad()
def test_integers_are_what_was_learned(name, settings):
    """Node by node: few codes differ, by one, as real numbers next to the edge of a code are rounded either way.
    Tables of 12 bits, so that their steps are finer than codes of 8; the reciprocal square roots of LayerNorm are 0.2 %
    off at most, half a code of 8 bits."""
    trained = network(name, **settings).eval()
    trained.name = name
    pictures = noise_images(4, SIZES[name])
    made = integer_network(trained, pictures, MEAN, STD, table_index_bits=12)
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
            share = 0.12 if layer.output.bits == 8 else 0.05
            assert int(difference.max()) <= 1 and float(difference.double().mean()) < share, node.name


def test_noise_is_small_with_many_bits():
    trained = network("deit-cifar", bits=8, rectify="centred").eval()
    pictures = noise_images(4, 32)
    made = integer_network(trained, pictures, MEAN, STD)
    assert min(signal_to_noise(trained.graph, made, pictures).values()) > 15


def test_a_trained_network_is_its_own_fake_quantized_copy():
    trained = network("deit-cifar", bits=2).eval()
    pictures = noise_images(8, 32)
    made = integer_network(trained, pictures, MEAN, STD)
    names = [str(i) for i in range(10)]
    data = ArrayDataset(
        name="noise", native=pictures, size=32, labels=np.arange(8), mean=MEAN, std=STD, class_names=names
    )
    result = compare(trained, made, data)
    classes = trained(normalise(pictures, MEAN, STD)).argmax(1).numpy()
    assert result.fake_agreement == 1 and result.fake_top1 == result.float_top1 == (classes == np.arange(8)).mean()


@torch.no_grad()
def test_steps_that_training_drove_below_the_smallest_have_integers():
    """Biases in units of a probability's code would otherwise need more bits than there are."""
    trained = network("deit-cifar", bits=8, rectify="centred").eval()
    quantizers = [trained[node.name].probabilities for node in trained.graph.nodes]
    quantizers = [quantizer for quantizer in quantizers if quantizer is not None]
    for quantizer in quantizers:
        quantizer.exponent_of_step.fill_(-10)
    pictures = noise_images(4, 32)
    made = integer_network(trained, pictures, MEAN, STD)
    assert quantizers and all((q.form().scale == LEAST_PROBABILITY_SCALE).all() for q in quantizers)
    assert all(codes.abs().sum() for codes in made.run(torch.from_numpy(pictures), trace=True).values())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("name", sorted(SIZES))
def test_other_devices_make_the_same_codes(name: str, device: str) -> None:
    trained = network(name, bits=4, **({} if name == "b0" else {"rectify": "centred"})).eval()
    made = integer_network(trained, noise_images(4, SIZES[name]), MEAN, STD)
    batch = torch.from_numpy(noise_images(2, SIZES[name]))
    found = made.to(device).run(batch.to(device), trace=True)
    assert all(torch.equal(found[name].cpu(), codes) for name, codes in made.run(batch, trace=True).items())
