"""Post-training quantization of DeiT and Swin: the integer network computes what the float network computes."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from quant import numerics
from quant.data import normalise
from quant.data.noise import noise_images
from quant.evaluate import compare, dequantize, model_fingerprint, signal_to_noise
from quant.fake import recorded_format
from quant.graph import FloatConv, FloatGraph, FloatPool, FloatRectify, FloatSoftmaxAttention
from quant.integer_network import Conv, IntegerNetwork, LayerNorm, PatchConv, SoftmaxAttention
from quant.mixed_precision import activation_sensitivities, weight_sensitivities
from quant.models.random_weights import random_model
from quant.numerics import Operand
from quant.quantize import QuantizationError, QuantizerConfig, quantize
from tests.quant.support import MEAN, STD, TRANSFORMERS, tiny_network
from tests.quant.test_evaluate import dataset

IMAGES = noise_images(16, 32, 1)


@lru_cache
def model(name: str):
    return random_model(TRANSFORMERS[name], 32, MEAN, STD)


def network(name: str, **settings: object) -> IntegerNetwork:
    return quantize(model(name), IMAGES, MEAN, STD, QuantizerConfig(**settings)) if settings else default_network(name)


@lru_cache
def default_network(name: str) -> IntegerNetwork:
    return quantize(model(name), IMAGES, MEAN, STD)


def local_noise(graph: FloatGraph, network: IntegerNetwork, images: np.ndarray) -> dict[str, float]:
    """Signal-to-noise ratio in dB of each node alone: against the float operation on this node's own codes."""
    trace = network.run(torch.from_numpy(images), trace=True)
    ratios = {}
    for node in graph.nodes:
        sources = [
            normalise(images, MEAN, STD) if name == "input" else dequantize(network, name, trace[name])
            for name in node.inputs
        ]
        expected = node.run(*sources)["output"]
        noise = (dequantize(network, node.name, trace[node.name]) - expected).square().mean()
        ratios[node.name] = 10 * float(torch.log10(expected.square().mean() / noise.clamp(min=1e-30)))
    return ratios


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_node_is_close_to_its_float_operation(name):
    ratios = local_noise(FloatGraph.from_model(model(name)), network(name), IMAGES)
    # Streams have 16 bits, so what is left is the noise of weights.
    least = {"conv": 40, "tokens": 80, "gather": 200, "select": 200, "proj": 35, "fc2": 35, "reduce": 35, "fc": 35}
    low = {k: v for k, v in ratios.items() if v < least.get(k.split(".")[-1], 28)}
    assert not low


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_network_is_close_to_the_float_model(name):
    ratios = signal_to_noise(model(name), network(name), noise_images(8, 32, 2))
    assert ratios["head.fc"] > 18
    fake = signal_to_noise(model(name), network(name), noise_images(8, 32, 2), fake=True)
    # What integer arithmetic costs beside the rounding of tensors is next to nothing.
    assert all(ratios[key] > fake[key] - 2 for key in fake)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("bits", [2, 3, 5, 6])
def test_every_width_makes_a_network_that_runs(name, bits):
    widths = dict(act_bits=bits, weight_bits=bits, table_index_bits=bits + 4)
    made = network(name, **widths, stream_bits=8 + bits, exp_index_bits=bits)
    trace, widths = made.run(torch.from_numpy(IMAGES[:4]), trace=True), made.widths()
    for key, codes in trace.items():
        low, high = numerics.code_range(*widths[key])
        assert low <= int(codes.min()) and int(codes.max()) <= high, key
        assert widths[key].bits == (16 if key == "head.fc" else 8 + bits if widths[key].signed else bits), key
    for node in made.nodes:
        if isinstance(node, SoftmaxAttention):
            assert (node.bits, node.probability.out_bits, node.index_bits) == (bits, bits, bits)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_accumulators_and_requants_are_within_their_limits(name):
    for node in network(name).nodes:
        if isinstance(node, (Conv, PatchConv)):
            accumulators = 255 * node.weight.long().abs().flatten(1).sum(1) + node.requant.bias.abs()
            assert int(accumulators.max()) < 1 << 25, node.name
        if isinstance(node, SoftmaxAttention):
            assert node.largest_score < 1 << 25 and int(node.probability.shift.max()) <= 31 - numerics.RECIPROCAL_BITS
        if getattr(getattr(node, "requant", None), "operand", None) == Operand.RESIDUAL:
            # The residual path is exact: the sum's scale is the residual's times a ratio of integers.
            form, residual = (recorded_format(network(name), key) for key in (node.name, node.inputs[1]))
            exact = residual.scale * 2.0**node.requant.shift2 / node.requant.multiplier2[:1]
            assert torch.equal(form.scale, exact) and node.requant.shift2 >= 6


def test_streams_are_what_no_multiplier_reads():
    widths = network("swin").widths()
    streams = {key for key, width in widths.items() if width.signed}
    ends = ("patch.conv", "patch.norm", "proj", "fc2", "gather", "reduce", "head.fc")
    assert streams == {key for key in widths if key.endswith(ends)}
    assert {key for key, width in network("deit").widths().items() if width.signed} == {
        key for key in network("deit").widths() if key.endswith(("patch.conv", "tokens", "proj", "fc2", "head.fc"))
    }


def test_features_are_signed_codes_of_16_bits():
    backbone = random_model(TRANSFORMERS["deit"].replace(distilled=False, num_classes=0), 32, MEAN, STD)
    made = quantize(backbone, IMAGES, MEAN, STD, QuantizerConfig(act_bits=4))
    assert made.nodes[-1].name == "head.norm" and made.widths()["head.norm"] == (16, True)
    assert made.run(torch.from_numpy(IMAGES[:2])).shape == (2, 48)
    assert local_noise(FloatGraph.from_model(backbone), made, IMAGES[:4])["head.norm"] > 60


def test_formats_of_queries_keys_and_values():
    form = recorded_format(network("deit"), "blocks.0.attention.qkv")
    queries, keys, _ = form.scale.reshape(3, 3, 16)
    product = queries * keys
    assert torch.allclose(product, product[:, :1].expand_as(product), rtol=1e-12)
    # What was seen of keys and values lies around the middle, between code 1 and the largest.
    codes = network("deit").run(torch.from_numpy(IMAGES), trace=True)["blocks.0.attention.qkv"][:, 96:]
    middle = (codes.amax((0, 2, 3)) + codes.amin((0, 2, 3))) / 2
    assert float((middle - 128).abs().max()) <= 16
    # Channels of the classifiers' input have scales of their own although a choice of tokens lies between.
    assert len(recorded_format(network("deit"), "head.norm").scale) == 48
    assert len(recorded_format(network("deit"), "head.select").scale) == 96


def test_probabilities_have_scales_per_head_or_are_codes_of_0_to_1():
    def scales(**settings: object) -> list[float]:
        return network("deit", **settings).info["formats"]["blocks.1.attention.softmax.attention"]["scale"]

    assert len(set(scales())) == 3 and max(scales()) <= 1.001 / 255
    assert scales(attention_state="tensor") == pytest.approx([1 / 255] * 3, rel=1e-4)
    mixed = network("deit", layer_act_bits={"blocks.1.attention.softmax.attention": 4})
    assert mixed["blocks.1.attention.softmax"].probability.out_bits == 4
    assert mixed["blocks.0.attention.softmax"].probability.out_bits == 8


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_other_choices(observer, scales):
    made = network("swin", observer=observer, attention_input=scales, pointwise_input=scales, bias_correction=False)
    ratios = signal_to_noise(model("swin"), made, noise_images(8, 32, 2))
    assert ratios["stages.1.0.attention.proj"] > 25
    plain = quantize(model("deit"), IMAGES, MEAN, STD, QuantizerConfig.plain())
    assert {len(f["scale"]) for f in plain.info["formats"].values()} <= {1, 3}


@pytest.mark.parametrize("centred", [True, False])
def test_rectified_queries_and_keys(centred):
    graph = FloatGraph.from_model(model("deit"))
    generator = torch.Generator().manual_seed(0)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, FloatSoftmaxAttention):
            name = node.name.replace("softmax", "rectify")
            gain, shift = 1 + 0.3 * torch.randn(96, generator=generator), 0.2 * torch.randn(96, generator=generator)
            nodes.append(
                FloatRectify(
                    name=name, inputs=node.inputs, heads=3, gain=gain, shift=shift, epsilon=1e-5, centred=centred
                )
            )
            node = replace(node, inputs=(name,))
        nodes.append(node)
    graph = FloatGraph(tuple(nodes))
    made = quantize(graph, IMAGES, MEAN, STD)
    assert made.widths()["blocks.0.attention.qkv"] == (16, True)
    assert made["blocks.0.attention.rectify"].centred == centred
    assert min(local_noise(graph, made, IMAGES).values()) > 25


def test_convolutions_of_overlapping_patches_are_refused():
    graph = FloatGraph.from_model(model("deit"))
    pool = FloatPool(name="head.pool", inputs=("patch.conv",))
    classifier = FloatConv(name="head.fc", inputs=("head.pool",), weight=torch.ones(9, 48, 1, 1), bias=torch.zeros(9))
    wrong = FloatGraph((replace(graph.nodes[0], stride=4), pool, classifier))
    with pytest.raises(QuantizationError, match="patch.conv.*stride = kernel"):
        quantize(wrong, IMAGES, MEAN, STD)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_files(name, tmp_path):
    made, images = tiny_network(32, name=name)
    made.save(tmp_path / "network.safetensors")
    loaded = IntegerNetwork.load(tmp_path / "network.safetensors")
    assert torch.equal(loaded.run(images), made.run(images)) and loaded.info == made.info
    assert isinstance(loaded["patch.conv"], PatchConv) and any(isinstance(node, LayerNorm) for node in loaded.nodes)
    alone = torch.cat([made.run(image[None]) for image in images])
    assert torch.equal(made.run(images), alone), "images influence each other"


def test_sensitivities_leave_streams_alone():
    made = network("swin")
    images = torch.from_numpy(IMAGES[:4])
    found = activation_sensitivities(made, images, 4)
    assert set(found) == {key for key, width in made.widths().items() if not width.signed} - {"input"}
    assert "patch.conv" not in weight_sensitivities(made, images, 4)


def test_comparison_with_the_float_network():
    pictures = dataset(noise_images(32, 32, 5), np.zeros(32, dtype=np.int64))
    comparison = compare(model("deit"), network("deit"), pictures)
    assert comparison.images == 32 and comparison.agreement > 0.8 and comparison.fake_agreement > 0.8
    assert model_fingerprint(model("deit")) != model_fingerprint(model("swin"))
