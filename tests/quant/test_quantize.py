"""Post-training quantization: the integer network computes what the float network computes, within its widths."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quant.data import normalise
from quant.data.noise import noise_images
from quant.evaluate import dequantize, signal_to_noise
from quant.graph import FloatConv, FloatGraph
from quant.integer_network import AveragePool, Conv, Input, IntegerNetwork, LayerNorm, LinearAttention
from quant.models.efficientvit import EfficientViT
from quant.models.random_weights import random_model
from quant.numerics import Operand
from quant.quantize import QuantizationError, QuantizerConfig, quantize
from tests.quant.support import CONFIGS, MEAN, STD, tiny_network


@pytest.fixture(scope="module")
def model() -> EfficientViT:
    return random_model(CONFIGS["tiny"], 64, MEAN, STD)


@pytest.fixture(scope="module")
def network(model) -> IntegerNetwork:
    return quantize(model, noise_images(16, 64, 1), MEAN, STD)


def local_noise(model: EfficientViT, network: IntegerNetwork, images: np.ndarray) -> dict[str, float]:
    """Signal-to-noise ratio in dB of each node alone: against the float operation on this node's own codes."""
    trace = network.run(torch.from_numpy(images), trace=True)
    ratios = {}
    for node in FloatGraph.from_model(model).nodes:
        sources = [
            normalise(images, MEAN, STD) if name == "input" else dequantize(network, name, trace[name])
            for name in node.inputs
        ]
        expected = node.run(*sources)["output"]
        noise = (dequantize(network, node.name, trace[node.name]) - expected).square().mean()
        ratios[node.name] = 10 * float(torch.log10(expected.square().mean() / noise))
    return ratios


# -- the float graph --


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_the_float_graph_is_the_model(name):
    model = random_model(CONFIGS[name], 48, MEAN, STD)
    images = normalise(noise_images(4, 48), MEAN, STD)
    with torch.no_grad():
        expected = model(images)
    assert torch.allclose(
        FloatGraph.from_model(model).logits(images), expected, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", ["tiny", "b1"])
def test_blocks_read_one_tensor_each(name):
    graph = FloatGraph.from_model(EfficientViT(CONFIGS[name]))
    blocks = graph.blocks()
    assert [node for block in blocks for node in block] == list(graph.nodes)
    for before, block in zip(blocks, blocks[1:]):
        inner = {node.name for node in block}
        assert {source for node in block for source in node.inputs} - inner == {before[-1].name}
    sizes = {block[0].name.rpartition(".")[0]: len(block) for block in blocks[:-3]}
    assert sizes["stem.1"] == 2 and sizes["stages.2.0"] == 3 and sizes["stages.3.1.attention"] == 5
    assert [[node.name for node in block] for block in blocks[-3:]] == [
        ["head.conv", "head.pool"], ["head.fc1", "head.norm"], ["head.fc2"],
    ]  # fmt: skip


def test_names_of_nodes_are_stable(network):
    assert (
        [node.name for node in network.nodes]
        == """
        input stem.conv stem.1.depth stem.1.point
        stages.1.0.inverted stages.1.0.depth stages.1.0.point
        stages.2.0.inverted stages.2.0.depth stages.2.0.point
        stages.3.0.inverted stages.3.0.depth stages.3.0.point
        stages.3.1.attention.qkv stages.3.1.attention.depth stages.3.1.attention.group stages.3.1.attention.linear
        stages.3.1.attention.proj stages.3.1.local.inverted stages.3.1.local.depth stages.3.1.local.point
        stages.4.0.inverted stages.4.0.depth stages.4.0.point
        stages.4.1.attention.qkv stages.4.1.attention.depth stages.4.1.attention.group stages.4.1.attention.linear
        stages.4.1.attention.proj stages.4.1.local.inverted stages.4.1.local.depth stages.4.1.local.point
        head.conv head.pool head.fc1 head.norm head.fc2""".split()
    )


# -- structure --


def test_operands_and_strides(network):
    operands = {node.name: node.requant.operand for node in network.nodes if hasattr(node, "requant")}
    assert operands["stem.conv"] == operands["stages.1.0.inverted"] == operands["head.norm"] == Operand.TABLE
    assert operands["stem.1.depth"] == operands["stages.4.1.local.depth"] == operands["head.conv"] == Operand.TABLE
    assert operands["stem.1.point"] == operands["stages.3.1.attention.proj"] == Operand.RESIDUAL
    assert operands["stages.3.1.local.point"] == Operand.RESIDUAL
    assert operands["stages.3.1.attention.linear"] == Operand.STAGE
    for name in ("stages.1.0.point", "stages.3.1.attention.qkv", "stages.3.1.attention.depth",
                 "stages.3.1.attention.group", "head.fc1", "head.fc2"):  # fmt: skip
        requant = network[name].requant
        assert requant.operand == Operand.NONE and requant.shift2 == 0 and not requant.multiplier2.any()
    assert network["stages.2.0.depth"].stride == 2 and network["stem.conv"].stride == 2
    assert network["stages.3.1.attention.proj"].inputs == ("stages.3.1.attention.linear", "stages.3.0.point")
    assert network["stages.3.1.attention.linear"].inputs == ("stages.3.1.attention.qkv", "stages.3.1.attention.group")
    assert network["stages.3.1.attention.group"].groups == 6
    assert [type(node) for node in network.nodes if not isinstance(node, Conv)] == [
        Input, LinearAttention, LinearAttention, AveragePool, LayerNorm,
    ]  # fmt: skip


def assert_hardware_limits(network: IntegerNetwork) -> None:
    for node in network.nodes:
        if isinstance(node, Conv):
            assert node.weight_bits == network.info["quantizer"]["weight_bits"]
            accumulators = 255 * node.weight.long().abs().flatten(1).sum(1) + node.requant.bias.abs()
            assert int(accumulators.max()) < 1 << 25, node.name
        if isinstance(node, LinearAttention):
            assert not node.requant.bias.any() and not node.requant.multiplier.any()
            assert int(node.requant.shift.min()) >= 1 and int(node.requant.shift.max()) <= 31 - 20
        if hasattr(node, "requant"):
            assert int(node.requant.multiplier.abs().max()) < 1 << 16
            assert (
                node.requant.operand != Operand.TABLE
                or len(node.requant.table) == 1 << (network.info["quantizer"]["table_index_bits"])
            )
    last = network.nodes[-1].requant
    assert last.signed and last.out_bits == 16 and not last.zero_point.any()


def test_scores_have_room(model, network):
    scores = network.run(torch.from_numpy(noise_images(16, 64, 1)))
    largest = int(scores.abs().max())
    assert 2**13 < largest < 2**14 + 2**11


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_makes_a_network_that_runs(bits):
    network, images = tiny_network(
        act_bits=bits, weight_bits=bits, state_bits=bits, divisor_mantissa_bits=bits - 2, table_index_bits=bits + 2
    )
    assert_hardware_limits(network)
    for name, codes in network.run(images, trace=True).items():
        if name != "head.fc2":
            assert 0 <= int(codes.min()) and int(codes.max()) < 2**bits
    for node in network.nodes:
        if hasattr(node, "requant") and node is not network.nodes[-1]:
            assert int(node.requant.zero_point.max()) < 2**bits


@pytest.mark.parametrize("name, size", [("odd", 32), ("odd", 45), ("tiny", 96)])
def test_other_shapes(name, size):
    network, images = tiny_network(name=name, size=size)
    assert_hardware_limits(network)
    assert network.run(images).shape == (4, CONFIGS[name].num_classes)


@pytest.mark.parametrize(
    "observer, depthwise, second, pointwise, attention",
    [("minmax", "channel", "channel", "channel", "channel"), ("percentile", "tensor", "tensor", "tensor", "tensor"),
     ("mse", "tensor", "channel", "tensor", "tensor"), ("mse", "channel", "tensor", "channel", "tensor"),
     ("mse", "tensor", "tensor", "tensor", "channel"), ("minmax", "migration", "shift", "tensor", "tensor"),
     ("mse", "migration", "shift", "channel", "channel")],
)  # fmt: skip
def test_scales_where_allowed(observer, depthwise, second, pointwise, attention):
    network, images = tiny_network(
        observer=observer,
        depthwise_input=depthwise,
        second_pointwise_input=second,
        pointwise_input=pointwise,
        attention_input=attention,
    )
    formats = network.info["formats"]
    expected = {
        "stages.1.0.inverted": depthwise, "stages.4.1.local.inverted": depthwise,
        "stem.1.depth": second, "stages.1.0.depth": second, "stages.3.1.local.depth": second,
        "stem.conv": pointwise, "stages.3.0.point": pointwise,
        "stages.3.1.attention.depth": pointwise, "stages.3.1.attention.linear": pointwise, "head.norm": pointwise,
        "stages.3.1.attention.qkv": attention, "stages.3.1.attention.group": attention,
        "head.conv": "tensor", "head.pool": "tensor", "head.fc1": "tensor", "head.fc2": "tensor",
    }  # fmt: skip
    assert {name: len(formats[name]["scale"]) > 1 for name in expected} == {
        name: choice != "tensor" for name, choice in expected.items()
    }
    for name, choice in expected.items():
        # The scales are rounded with the second multipliers.
        scale = torch.tensor(formats[name]["scale"])
        if choice == "shift":
            assert float(scale.max() / scale.min()) < 1.001
        if choice == "migration":
            assert 1.1 < float(scale.max() / scale.min()) and len(set(formats[name]["zero_point"])) == 1
    # A residual operand and the input of an attention have one zero-point.
    for name in ("stem.conv", "stages.3.0.point", "stages.3.1.attention.qkv", "stages.3.1.attention.group"):
        assert len(set(formats[name]["zero_point"])) == 1
    network.run(images)


@pytest.mark.parametrize("divisor", ["reciprocal", "uniform"])
@pytest.mark.parametrize("attention_state", ["tensor", "head"])
def test_scales_of_states(attention_state, divisor):
    network, images = tiny_network(attention_state=attention_state, divisor=divisor, attention_input="tensor")
    node = network["stages.4.1.attention.linear"]
    for kind in ("state", "sum", "divisor"):
        multiplier, shift = getattr(node, f"{kind}_multiplier"), getattr(node, f"{kind}_shift")
        if kind == "divisor" and divisor == "reciprocal":
            assert multiplier is None and shift is None
            continue
        real = (multiplier / 2.0**shift).reshape(2, -1)
        assert torch.equal(real, real[:, :1].expand_as(real)) == (attention_state == "tensor")
    network.run(images)


def test_presets_are_the_paper_and_its_baseline():
    plain, paper = QuantizerConfig.plain(act_bits=6), QuantizerConfig.trio_vit()
    assert plain.depthwise_input == plain.attention_state == "tensor" and plain.act_bits == 6
    assert (paper.depthwise_input, paper.second_pointwise_input, paper.divisor_mantissa_bits) == (
        "migration",
        "shift",
        0,
    )
    assert QuantizerConfig.trio_vit(divisor="uniform").divisor == "uniform"


def test_scales_of_queries_and_keys_cancel(network):
    for name in ("stages.3.1.attention.qkv", "stages.4.1.attention.group"):
        scale = torch.tensor(network.info["formats"][name]["scale"], dtype=torch.float64).reshape(-1, 3, 16)
        product = scale[:, 0] * scale[:, 1]
        assert torch.allclose(product, product[:, :1].expand(-1, 16), rtol=1e-12)


# -- accuracy --


def test_every_node_is_close_to_its_float_operation(model, network):
    # On the calibration images, so that nothing is clipped that was not seen.
    ratios = local_noise(model, network, noise_images(16, 64, 1))
    # 8-bit codes of bell-shaped values give 30 to 40 dB; a wrong scale, zero-point, or bias gives less than 20.
    # The attention has an 8-bit state as well; in its own input, negative q and k are cut off, as they do not matter.
    least = {".linear": 25, ".group": 15}
    low = {name: ratio for name, ratio in ratios.items() if ratio < least.get("." + name.split(".")[-1], 30)}
    assert not low


def test_the_network_is_close_to_the_float_model(model, network):
    ratios = signal_to_noise(model, network, noise_images(8, 64, 1))
    assert ratios["stem.conv"] > 30 and ratios["stages.1.0.point"] > 20
    # Random weights amplify noise from layer to layer; trained ones do not.
    assert ratios["head.fc2"] > 8


def test_more_bits_are_better(model):
    images = noise_images(16, 64, 1)
    ratios = [
        signal_to_noise(
            model, quantize(model, images, MEAN, STD, QuantizerConfig(act_bits=bits, weight_bits=bits)), images
        )
        for bits in (3, 5, 8)
    ]
    for name in ("stem.conv", "stages.1.0.point"):
        values = [ratio[name] for ratio in ratios]
        assert values == sorted(values) and values[-1] > values[0] + 10


def test_image_normalisation_is_folded_into_the_stem(model, network):
    images = noise_images(4, 64, 7)
    stem = FloatGraph.from_model(model).nodes[0]
    node = network["stem.conv"]
    accumulators = node.accumulate(network.input.run(torch.from_numpy(images).permute(0, 3, 1, 2)))
    linear = stem.run(normalise(images, MEAN, STD))["linear"]
    # The accumulator with its bias is the pre-activation, up to the rounding of weights and bias.
    total = (accumulators + node.requant.bias.reshape(1, -1, 1, 1)).double()
    slope = (total * linear).sum((0, 2, 3)) / (total * total).sum((0, 2, 3))
    error = (total * slope.reshape(1, -1, 1, 1) - linear).abs().amax((0, 2, 3)) / linear.abs().amax((0, 2, 3))
    assert float(error.max()) < 0.01


def test_constant_images_agree(network, model):
    graph = FloatGraph.from_model(model)
    for value in (0, 255):
        images = np.full((1, 64, 64, 3), value, dtype=np.uint8)
        (_, tensors), *_ = graph.run(normalise(images, MEAN, STD))
        codes = network.run(torch.from_numpy(images), trace=True)["stem.conv"]
        real = dequantize(network, "stem.conv", codes)
        top = dequantize(network, "stem.conv", torch.full_like(codes, 255))
        assert ((real - tensors["output"].minimum(top)).abs() < 0.03 * top + 0.01 * float(top.max())).all()


# -- degenerate models --


def degenerate(change) -> IntegerNetwork:
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    with torch.no_grad():
        change(model)
    network = quantize(model, noise_images(8, 32, 1), MEAN, STD)
    assert_hardware_limits(network)
    return network


def test_dead_channels_and_layers():
    def zero_everything(model):
        for parameter in model.parameters():
            parameter.zero_()

    def dead_channels(model):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight[::3] = 0.0
                module.bias[::2] = 0.0

    images = torch.from_numpy(noise_images(2, 32))
    assert not degenerate(zero_everything).run(images).any()
    assert degenerate(dead_channels).run(images).any()


def test_large_biases_beside_tiny_weights():
    def change(model):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight[0], module.bias[0] = 1e-9, 50.0
                module.weight[1], module.bias[1] = 1e-9, -50.0
        norm = model.head.op_list[2].norm
        norm.weight[0], norm.bias[0] = 0.0, 3.0
        norm.weight[1], norm.bias[1] = -1e-12, -3.0
        norm.weight[2], norm.bias[2] = -1.0, 0.5

    network = degenerate(change)
    images = torch.from_numpy(noise_images(2, 32))
    real = dequantize(network, "head.norm", network.run(images, trace=True)["head.norm"])[:, :, 0, 0]
    # Without gain, only hardswish(shift) is left.
    assert torch.allclose(real[:, 0], torch.tensor(3.0), atol=0.05) and torch.allclose(
        real[:, 1], torch.tensor(0.0), atol=0.05
    )


def test_layer_norm_gains_may_be_negative(model):
    network = quantize(model, noise_images(8, 64, 1), MEAN, STD)
    gains = FloatGraph.from_model(model).nodes[-2].weight
    assert torch.equal(network["head.norm"].requant.multiplier.sign(), gains.sign().long())


# -- bad input --


@pytest.mark.parametrize(
    "change",
    [dict(weight_bits=1), dict(act_bits=9), dict(state_bits=8.0), dict(table_index_bits=13), dict(observer="best"),
     dict(divisor_mantissa_bits=True), dict(batch_size=0),
     dict(depthwise_input="shift"), dict(divisor="log2"),
     dict(layer_weight_bits={"stem.conv": 9}), dict(layer_act_bits={"stem.conv": 1})],
)  # fmt: skip
def test_configurations_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(QuantizerConfig(), **change)


@pytest.mark.parametrize(
    "images, mean, std",
    [
        (np.zeros((1, 32, 32, 3), np.float32), MEAN, STD),
        (np.zeros((1, 32, 30, 3), np.uint8), MEAN, STD),
        (np.zeros((1, 3, 32, 32), np.uint8), MEAN, STD),
        (np.zeros((0, 32, 32, 3), np.uint8), MEAN, STD),
        (np.zeros((1, 32, 32, 3), np.uint8), MEAN[:2], STD),
        (np.zeros((1, 32, 32, 3), np.uint8), MEAN, (0.0, 1.0, 1.0)),
    ],
)
def test_unsuitable_images_are_refused(images, mean, std):
    with pytest.raises(QuantizationError):
        quantize(EfficientViT(CONFIGS["tiny"]), images, mean, std)


def test_damaged_weights_are_named():
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    with torch.no_grad():
        model.backbone.stages[1].op_list[0].main.depth_conv.conv.weight[0] = float("nan")
    with pytest.raises(QuantizationError, match="stages.2.0.depth"):
        quantize(model, noise_images(2, 32), MEAN, STD)


def test_progress_goes_from_nothing_to_all():
    seen = []
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    quantize(model, noise_images(5, 32), MEAN, STD, QuantizerConfig(batch_size=2),
             progress=lambda done, text: seen.append((done, text)))  # fmt: skip
    done = [x for x, _ in seen]
    assert done == sorted(done) and done[0] == 0.0 and done[-1] <= 1.0 and len(done) > 30
    assert any("image 3 of 5" in text for _, text in seen) and any("head.fc2" in text for _, text in seen)


def test_the_model_is_left_as_it_is():
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantize(model, noise_images(2, 32), MEAN, STD)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_quantizing_twice_gives_the_same_network(model, network, tmp_path):
    network.save(tmp_path / "a")
    quantize(model, noise_images(16, 64, 1), MEAN, STD).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_depthwise_filters_are_recognised(model):
    depthwise = [n.name for n in FloatGraph.from_model(model).nodes if isinstance(n, FloatConv) and n.is_depthwise]
    assert depthwise and all(name.endswith("depth") for name in depthwise)
