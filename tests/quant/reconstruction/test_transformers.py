"""Reconstruction of the blocks of DeiT and Swin."""

from functools import lru_cache

import pytest
import torch

from quant.builder import probabilities_of
from quant.config import QuantizerConfig, Reconstruction
from quant.evaluate import signal_to_noise
from quant.graph import FloatSoftmaxAttention
from quant.integer_network import Conv, PatchConv
from quant.models.random_weights import random_model
from quant.quantize import quantize
from tests.quant.reconstruction.test_reconstruct import IMAGES, Built, build, model_of, reconstructed
from tests.quant.support import MEAN, STD, TRANSFORMERS

#: patches, an attention, an MLP, a choice of tokens, a merging
BLOCKS = [
    ("deit", "patch.tokens"),
    ("deit", "blocks.0.attention.proj"),
    ("deit", "blocks.0.mlp.fc2"),
    ("deit", "head.select"),
    ("swin", "stages.1.1.attention.proj"),
    ("swin", "stages.2.merge.reduce"),
]


@lru_cache
def model(name: str):
    return random_model(TRANSFORMERS[name], 32, MEAN, STD)


@lru_cache
def built(name: str, last: str, act_bits: int = 8, weight_bits: int = 4) -> Built:
    return build(QuantizerConfig(weight_bits=weight_bits, act_bits=act_bits), last, model(name))


@pytest.mark.parametrize("name, last", BLOCKS)
def test_a_hardened_model_computes_what_the_integer_nodes_compute(name, last):
    b = built(name, last, weight_bits=6)
    builder, live, differ = b.builder, {b.block[0].inputs[0]: b.codes}, model_of(b)
    for node, made in zip(b.block, builder.nodes[-len(b.block) :]):
        live[node.name] = made.run(*(live[key] for key in node.inputs))
        layer, form = differ.layers[node.name.replace(".", "/")], builder.formats[node.name]
        sources = [builder.formats[key].dequantize(live[key]) for key in node.inputs]
        with torch.no_grad():
            if isinstance(made, (Conv, PatchConv)):
                up = made.weight - layer.rounding.floor
                layer.rounding.alpha.copy_(torch.where(up > 0.5, 20.0, -20.0))
            found = layer(*sources)
        if not form.signed:
            with torch.no_grad():
                found = differ.steps[node.name.replace(".", "/")](found)
        expected = form.dequantize(live[node.name])
        error = (found - expected).square().mean() / expected.square().mean()
        assert float(error) < 2e-4, node.name


@pytest.mark.parametrize("name, last", [block for block in BLOCKS if block[1] not in ("patch.tokens", "head.select")])
@pytest.mark.parametrize("act_bits", [4, 8])
def test_the_real_integer_nodes_get_better(act_bits, name, last):
    b = built(name, last, act_bits)
    _, candidate = reconstructed(b, Reconstruction(iterations=40, batch_size=16, rounding_rate=0.05))
    wanted = b.tensors[-1][1]["output"]
    before, after = (
        float((x.formats[last].dequantize(x.codes[last]) - wanted).square().mean()) for x in (b.builder, candidate)
    )
    assert after < 0.98 * before


def test_steps_of_probabilities_are_learned():
    b = built("deit", "blocks.0.attention.proj", 4)
    differ = model_of(b)
    node = next(node for node in b.block if isinstance(node, FloatSoftmaxAttention))
    before = differ.learned().formats[probabilities_of(node)]
    optimizer = torch.optim.Adam(differ.parameters(), lr=1e-2)
    output = differ(b.builder.formats[b.block[0].inputs[0]].dequantize(b.codes))
    (output - b.tensors[-1][1]["output"]).square().mean().backward()
    optimizer.step()
    after = differ.learned()
    form = after.formats[probabilities_of(node)]
    assert bool((form.scale != before.scale).all())
    candidate = b.before.fork(after)
    for float_node, values in b.tensors:
        candidate.add(float_node, values)
    assert torch.allclose(candidate.formats[probabilities_of(node)].scale, form.scale, rtol=1e-3)


def test_a_normalisation_that_makes_a_stream_has_nothing_to_learn():
    backbone = random_model(TRANSFORMERS["deit"].replace(distilled=False, num_classes=0), 32, MEAN, STD)
    b = build(QuantizerConfig(), "head.norm", backbone)
    assert not list(model_of(b).parameters())
    reconstructor, builder = reconstructed(b, Reconstruction(iterations=1))
    assert reconstructor.better(b.block, b.builder, builder) is b.builder


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_whole_networks_get_better(name):
    settings = Reconstruction(iterations=25, batch_size=16, rounding_rate=0.05)
    ratios = [
        signal_to_noise(
            model(name),
            quantize(model(name), IMAGES, MEAN, STD, QuantizerConfig(weight_bits=4, reconstruction=x)),
            IMAGES,
        )["head.fc"]
        for x in (None, settings)
    ]
    assert ratios[1] > ratios[0] + 0.5
