"""Reconstruction of whole blocks; and the faults of Trio-ViT's public code, each shown to be absent."""

from dataclasses import dataclass, replace

import pytest
import torch

from quant.builder import Builder
from quant.config import QuantizerConfig, Reconstruction
from quant.data import normalise
from quant.data.noise import noise_images
from quant.graph import FloatAttention, FloatConv, FloatGraph, FloatNode
from quant.integer_network import Conv
from quant.models.random_weights import random_model
from quant.models.registry import Model
from quant.quantize import QuantizationError, calibrate, quantize
from quant.reconstruction.block import BlockModel
from quant.reconstruction.reconstruct import Reconstructor
from quant.scales import per_filter
from tests.quant.support import CONFIGS, MEAN, STD

IMAGES = noise_images(64, 32, 1)
MODEL = random_model(CONFIGS["tiny"], 32, MEAN, STD)
#: an MBConv, an attention, and a linear layer of the head
BLOCKS = ("stages.2.0.point", "stages.3.1.attention.proj", "head.norm")


@dataclass
class Built:
    """The network up to a block and with it, what that block reads, and what the float block makes of it."""

    before: Builder
    builder: Builder
    block: tuple[FloatNode, ...]
    codes: torch.Tensor
    floats: torch.Tensor
    tensors: list[tuple[FloatNode, dict[str, torch.Tensor]]]


def build(config: QuantizerConfig, last: str, model: Model = MODEL) -> Built:
    """Quantize up to the block whose last node is `last`."""
    graph, config = FloatGraph.from_model(model), replace(config, observer="minmax")  # the fastest
    builder = Builder(graph, calibrate(graph, IMAGES, MEAN, STD, config), config, 32, MEAN, STD)
    builder.start(IMAGES)
    floats = normalise(IMAGES, MEAN, STD)
    for block in graph.blocks():
        before, codes = builder.fork(), builder.codes[block[0].inputs[0]]
        tensors = list(graph.run_block(block, floats))
        for node, values in tensors:
            builder.add(node, values)
        if block[-1].name == last:
            return Built(before, builder, block, codes, floats, tensors)
        floats = tensors[-1][1]["output"]
    raise AssertionError(f"no block ends with {last}")


def model_of(b: Built) -> BlockModel:
    builder = b.builder
    return BlockModel(b.block, builder.nodes[-len(b.block) :], builder.formats, builder.units, builder.config)


@pytest.mark.parametrize("last", BLOCKS)
@pytest.mark.parametrize("preset", [QuantizerConfig, QuantizerConfig.trio_vit])
def test_a_hardened_model_computes_what_the_integer_nodes_compute(last, preset):
    b = build(preset(weight_bits=6), last)
    builder, block, model, live = b.builder, b.block, model_of(b), {b.block[0].inputs[0]: b.codes}
    for node, made in zip(block, builder.nodes[-len(block) :]):
        live[node.name] = made.run(*(live[name] for name in node.inputs))
        layer, form = model.layers[node.name.replace(".", "/")], builder.formats[node.name]
        sources = [builder.formats[name].dequantize(live[name]) for name in node.inputs]
        with torch.no_grad():
            if isinstance(made, Conv):
                up = made.weight - layer.rounding.floor
                layer.rounding.alpha.copy_(torch.where(up > 0.5, 20.0, -20.0))
            found = model.steps[node.name.replace(".", "/")](layer(*sources))
        error = (found - form.dequantize(live[node.name])).abs() / form.scale.reshape(1, -1, 1, 1)
        # Tables have steps of their own, which are coarse for channels with small scales.
        assert float(error.mean()) < 0.3 and float((error > 1.01).float().mean()) < 0.05, node.name


def reconstructed(b: Built, settings: Reconstruction) -> tuple[Reconstructor, Builder]:
    """The block once more, as reconstruction would have it."""
    reconstructor = Reconstructor(b.builder.graph, settings, b.codes, b.floats)
    candidate = b.before.fork(reconstructor.learn(b.block, b.builder, lambda done, text: None))
    for node, values in b.tensors:
        candidate.add(node, values)
    return reconstructor, candidate


@pytest.mark.parametrize("last", BLOCKS)
@pytest.mark.parametrize("act_bits", [4, 8])
def test_the_real_integer_nodes_get_better(act_bits, last):
    b = build(QuantizerConfig(weight_bits=4, act_bits=act_bits), last)
    _, candidate = reconstructed(b, Reconstruction(iterations=40, batch_size=16, rounding_rate=0.05))
    wanted = b.tensors[-1][1]["output"]
    # On all images: noise has nothing to learn that would help with other noise.
    before, after = (
        float((x.formats[last].dequantize(x.codes[last]) - wanted).square().mean()) for x in (b.builder, candidate)
    )
    assert after < 0.98 * before


def test_worse_is_not_kept():
    b = build(QuantizerConfig(weight_bits=4), "stages.2.0.point")
    reconstructor, candidate = reconstructed(b, Reconstruction(iterations=3, rounding_rate=30.0))
    assert reconstructor.error(b.block, candidate) > reconstructor.error(b.block, b.builder)
    assert reconstructor.better(b.block, b.builder, candidate) is b.builder


def test_equal_seeds_give_equal_networks():
    settings = Reconstruction(iterations=2, batch_size=4)
    config = QuantizerConfig(weight_bits=4, observer="minmax", reconstruction=settings)
    first, second = (quantize(MODEL, IMAGES, MEAN, STD, config) for _ in range(2))
    for one, other in zip(first.nodes, second.nodes):
        assert not isinstance(one, Conv) or torch.equal(one.weight, other.weight)
    images = torch.from_numpy(IMAGES)
    assert torch.equal(first.run(images), second.run(images))


@pytest.mark.parametrize("change", [dict(iterations=0), dict(batch_size=0), dict(step_rate=-1.0), dict(warm_up=1.0)])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Reconstruction(**change)


def test_a_few_images_are_not_enough():
    with pytest.raises(QuantizationError, match="at least 8"):
        quantize(MODEL, IMAGES[:7], MEAN, STD, QuantizerConfig(reconstruction=Reconstruction()))


# -- faults of the public code --


def test_every_convolution_is_hardened():
    """There, depthwise and second pointwise filters keep their soft weights, which are no codes."""
    model = model_of(build(QuantizerConfig.trio_vit(weight_bits=4), "stages.2.0.point"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3
    learned = model.learned()
    assert set(learned.convs) == {"stages.2.0.inverted", "stages.2.0.depth", "stages.2.0.point"}
    for conv in learned.convs.values():
        assert conv.codes.dtype == torch.int8 and int(conv.codes.abs().max()) <= 7
        # What the quantizer is told is codes times a step, the same for all of a filter's taps.
        step = (conv.weight / conv.codes).nan_to_num(0.0).flatten(2)
        assert torch.equal(step * (conv.codes.flatten(2) != 0), step)
        assert torch.allclose(step[step != 0], step.amax(2, keepdim=True).expand_as(step)[step != 0])


@pytest.mark.parametrize("name", ["stages.2.0.depth", "stages.2.0.point"])
def test_rounding_starts_from_the_rescaled_weight(name):
    """There, it starts from the weight before migration."""
    b = build(QuantizerConfig.trio_vit(weight_bits=4), "stages.2.0.point")
    model, builder = model_of(b), b.builder
    node = next(node for node in b.block if node.name == name)
    layer = model.layers[name.replace(".", "/")]
    scale = per_filter(builder.formats[node.inputs[0]].scale, node.weight, node.groups)
    rescaled = node.weight * scale / builder.units[name].reshape(-1, 1, 1, 1)
    inside = rescaled.abs() < 7
    _, share = layer.rounding()
    assert torch.allclose((layer.rounding.floor + share).double()[inside], rescaled[inside], atol=1e-3)


@pytest.mark.parametrize("divisor", ["reciprocal", "uniform"])
def test_attention_quantizers_are_learned(divisor):
    """There, they are made after the optimizer, and stay as the first batch left them."""
    b = build(QuantizerConfig.trio_vit(divisor=divisor), "stages.3.1.attention.proj")
    model = model_of(b)
    name = next(node.name for node in b.block if isinstance(node, FloatAttention))
    before = model.learned()
    # The optimizer is made before anything has run.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    output = model(b.builder.formats[b.block[0].inputs[0]].dequantize(b.codes))
    (output - b.tensors[-1][1]["output"]).square().mean().backward()
    optimizer.step()
    after = model.learned()
    for first, second in zip(before.units[name], after.units[name]):
        # One for all heads of a branch, as they began.
        factor = (second / first).reshape(2, -1)
        assert bool((factor != 1.0).all()) and torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-5)
    for source in (*b.block[3].inputs, name):
        assert not torch.equal(before.formats[source].scale, after.formats[source].scale)
    candidate = b.before.fork(after)
    for node, values in b.tensors:
        candidate.add(node, values)
    made = next(node for node in candidate.nodes if node.name == name)
    for kind, unit in zip(("state", "sum"), after.units[name]):
        found = torch.ldexp(1.0 / getattr(made, f"{kind}_multiplier").double(), getattr(made, f"{kind}_shift"))
        assert torch.allclose(found, unit, rtol=1e-4)


def test_divisors_have_no_fixed_range():
    """There, they are clamped to 2**-6 .. 2**9 in real units, in every layer: a factor on k would change the result."""
    factor = 2.0**12
    graph = FloatGraph.from_model(MODEL)
    outputs = []
    for scaled in (False, True):
        nodes = []
        for node in graph.nodes:
            if scaled and isinstance(node, FloatConv) and node.name.endswith("attention.qkv"):
                d = 16
                is_key = (torch.arange(len(node.weight)) // d) % 3 == 1
                grow = torch.where(is_key, factor, 1.0)
                node = FloatConv(
                    name=node.name, inputs=node.inputs, weight=node.weight * grow.reshape(-1, 1, 1, 1),
                    bias=node.bias * grow,
                )  # fmt: skip
            nodes.append(node)
        config = QuantizerConfig(divisor_mantissa_bits=0, observer="minmax")
        changed = FloatGraph(tuple(nodes))
        builder = Builder(changed, calibrate(changed, IMAGES, MEAN, STD, config), config, 32, MEAN, STD)
        builder.start(IMAGES)
        for node, tensors in changed.run(normalise(IMAGES, MEAN, STD)):
            if node.name == "stages.3.1.attention.proj":
                break
            builder.add(node, tensors)
        outputs.append(builder.formats["stages.3.1.attention.linear"].dequantize(
            builder.codes["stages.3.1.attention.linear"])[:, :32])  # fmt: skip
    error = (outputs[1] - outputs[0]).square().mean() / outputs[0].square().mean()
    assert float(error) < 0.05


def test_a_divisor_of_zero_gives_zero():
    """There, it becomes 2**-6 by way of a NaN; and 1e-5 is added to every divisor."""
    for divisor in ("reciprocal", "uniform"):
        b = build(QuantizerConfig.trio_vit(divisor=divisor), "stages.3.1.attention.proj")
        node = next(n for n in b.builder.nodes if n.name == "stages.3.1.attention.linear")
        dark = [torch.full((1, 96, 2, 2), zero, dtype=torch.int32) for zero in node.input_zero]
        assert torch.equal(node.run(*dark), node.requant.zero_point.reshape(1, -1, 1, 1).expand(1, -1, 2, 2).int())
