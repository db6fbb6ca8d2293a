"""Float graphs compute what the models compute, in blocks of one input each."""

import pytest
import torch

from quant.data import normalise
from quant.data.noise import noise_images
from quant.graph import FloatConv, FloatGraph, FloatSelect, FloatSoftmaxAttention
from quant.models.random_weights import random_model
from quant.models.registry import MODELS, build

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.25)
CONFIGS = {
    "b0": (MODELS["b0"], 64),
    "b1": (MODELS["b1"], 64),
    "deit-cifar": (MODELS["deit-cifar"], 32),
    "deit-cifar-distilled": (MODELS["deit-cifar-distilled"], 32),
    "features": (MODELS["deit-cifar"].replace(num_classes=0), 32),
    "deit-t": (MODELS["deit-t"].replace(depth=2), 224),
    "deit-t-distilled": (MODELS["deit-t-distilled"].replace(depth=2), 112),
    "swin-cifar": (MODELS["swin-cifar"], 32),
    "swin-t": (MODELS["swin-t"].replace(depths=(2, 1, 2, 1)), 224),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_graph_is_the_model(name):
    config, size = CONFIGS[name]
    model = random_model(config, size, MEAN, STD)
    images = normalise(noise_images(2, size), MEAN, STD)
    with torch.no_grad():
        expected = model(images)
    found = FloatGraph.from_model(model).logits(images)
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["deit-cifar-distilled", "swin-cifar"])
def test_blocks_read_one_tensor_each(name):
    graph = FloatGraph.from_model(build(MODELS[name]))
    blocks = graph.blocks()
    assert [node for block in blocks for node in block] == list(graph.nodes)
    for before, block in zip(blocks, blocks[1:]):
        inner = {node.name for node in block}
        assert {source for node in block for source in node.inputs} - inner == {before[-1].name}


def test_names_of_transformer_nodes():
    deit = [node.name for node in FloatGraph.from_model(build(MODELS["deit-cifar"])).nodes]
    assert deit[:6] == [
        "patch.conv", "patch.tokens",
        "blocks.0.attention.norm", "blocks.0.attention.qkv", "blocks.0.attention.softmax", "blocks.0.attention.proj",
    ]  # fmt: skip
    assert deit[6:9] == ["blocks.0.mlp.norm", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    assert deit[-3:] == ["head.norm", "head.select", "head.fc"]
    swin = [node.name for node in FloatGraph.from_model(build(MODELS["swin-cifar"])).nodes]
    assert swin[:3] == ["patch.conv", "patch.norm", "stages.1.0.attention.norm"]
    merging = swin.index("stages.2.merge.gather")
    assert swin[merging : merging + 3] == ["stages.2.merge.gather", "stages.2.merge.norm", "stages.2.merge.reduce"]
    assert swin[-3:] == ["head.norm", "head.pool", "head.fc"]


def test_without_classes_features_of_all_tokens_come_out():
    graph = FloatGraph.from_model(build(MODELS["deit-cifar"].replace(num_classes=0)))
    *_, (node, tensors) = graph.run(torch.zeros(2, 3, 32, 32))
    assert node.name == "head.norm" and tensors["output"].shape == (2, 64, 1, 65)


def test_two_classifiers_become_one_layer():
    graph = FloatGraph.from_model(build(MODELS["deit-cifar-distilled"]))
    select, classifier = graph.nodes[-2:]
    assert isinstance(select, FloatSelect) and select.tokens == (0, 1)
    assert isinstance(classifier, FloatConv) and classifier.weight.shape == (10, 2 * 64, 1, 1)


def test_windows_of_alternate_blocks_are_shifted():
    graph = FloatGraph.from_model(build(MODELS["swin-t"].replace(depths=(2, 2, 3, 2))))
    attentions = [node for node in graph.nodes if isinstance(node, FloatSoftmaxAttention)]
    assert [node.shift for node in attentions] == [0, 3, 0, 3, 0, 3, 0, 0, 0]
    assert {node.window for node in attentions} == {7}
    assert attentions[0].bias.shape == (3, 49, 49)
