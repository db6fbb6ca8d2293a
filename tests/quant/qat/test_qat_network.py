"""Networks that learn with fake-quantized codes: structure, widths, gradients, files."""

import pytest
import torch
from qat_networks import INFO, MEAN, SIZES, STD, images, network

from quant.graph import FloatConv, FloatGraph, FloatRectify, FloatSoftmaxAttention
from quant.models.checkpoint import CheckpointError
from quant.models.random_weights import random_model
from quant.models.registry import MODELS
from quant.qat.checkpoint import is_trained_checkpoint, read_trained, save_trained
from quant.qat.config import QatConfig
from quant.qat.network import QuantizedGraph
from quant.qat.rectification import centred_heads, rectified
from quant.qat.steps import MapQuantizer, StreamQuantizer


@pytest.mark.parametrize("name", SIZES)
def test_eight_bits_are_near_the_float_network(name):
    found = network(name, bits=8).eval()
    expected = found.graph.logits(images(name))
    with torch.no_grad():
        noise = (found(images(name)) - expected).square().mean() / expected.var()
    assert noise < 0.05  # the random network of EfficientViT has 0.02 to 0.1, by the images


@pytest.mark.parametrize("settings", [{}, {"map_scales": "groups", "head_scales": "tensor"}, {"rectify": "centred"}])
@pytest.mark.parametrize("name", ["deit-cifar", "swin-cifar", "b0"])
def test_everything_learns(name, settings):
    if name == "b0" and "rectify" in settings:
        pytest.skip("it has no softmax attention")
    trained = network(name, bits=2, **settings)
    trained(images(name)).square().sum().backward()
    fixed = {key for key, parameter in trained.named_parameters() if not parameter.requires_grad}
    assert all(key.endswith("probabilities.zero") for key in fixed)
    lacking = [key for key, value in trained.named_parameters() if value.grad is None and key not in fixed]
    assert lacking == []
    assert all(torch.isfinite(p.grad).all() for p in trained.parameters() if p.requires_grad)
    assert sum(bool(p.grad.any()) for p in trained.parameters() if p.requires_grad) > 0.9 * len(
        [p for p in trained.parameters() if p.requires_grad]
    )


def test_widths():
    trained = network("deit-cifar-distilled", bits=2, rectify="rms")
    weights = {layer.node.name: layer.weight.bits for layer in trained.layers.values() if layer.weight}
    edges = {"patch.conv": 8, "head.fc": 8}
    assert {name: bits for name, bits in weights.items() if bits != 2} == edges
    outputs = {layer.node.name: layer.output for layer in trained.layers.values()}
    assert {n for n, q in outputs.items() if isinstance(q, MapQuantizer) and q.bits != 2} == {"head.norm"}
    streams = {name.rpartition(".")[2] for name, q in outputs.items() if isinstance(q, StreamQuantizer)}
    assert streams == {"conv", "qkv", "proj", "fc2"}
    assert {name for name, q in outputs.items() if q is None} == {"patch.tokens", "head.select", "head.fc"}
    attention = trained["blocks.0.attention.softmax"]
    assert attention.probabilities.bits == 2 and len(attention.probabilities.step) == 2
    rectify = trained["blocks.0.attention.rectify"]
    assert len(rectify.output.step) == 6 and rectify.output.low.reshape(3, -1)[:, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["deit-cifar", "swin-cifar"])
@pytest.mark.parametrize("centred", [True, False])
def test_rectification_starts_near_the_float_network(name, centred):
    model = random_model(MODELS[name], 32, MEAN, STD)
    graph, x = FloatGraph.from_model(model), images(name, 16)
    found = rectified(graph, x, centred=centred)
    kinds = [type(node) for node in found.nodes]
    assert kinds.count(FloatRectify) == kinds.count(FloatSoftmaxAttention)
    if not centred:
        found = QuantizedGraph(found, QatConfig(), STD).graph
    exact, changed = graph.logits(x), found.logits(x)
    assert ((changed - exact).square().mean() / exact.var()) < 0.2
    for node, tensors in found.run(x):
        if isinstance(node, FloatRectify):
            q = tensors["output"][:, : len(node.gain) // 2].unflatten(1, (node.heads, -1))
            # With one gain and shift per head, every token of it has this mean and this deviation.
            assert q.mean(2).std((0, 2, 3)).max() < 1e-3 and q.std(2).std((0, 2, 3)).max() < 1e-2


def test_centred_heads():
    node = FloatConv(name="x", inputs=("y",), weight=torch.randn(12, 5, 1, 1), bias=torch.randn(12))
    found = centred_heads(node, 2)
    assert found.weight[:8].reshape(4, 2, 5).mean(1).abs().max() < 1e-6
    assert found.bias[:8].reshape(4, 2).mean(1).abs().max() < 1e-6
    assert torch.equal(found.weight[8:], node.weight[8:]) and torch.equal(found.bias[8:], node.bias[8:])


@pytest.mark.parametrize("settings", [{"bits": 3, "rectify": "rms"}, {"bits": 4, "map_scales": "groups"}])
def test_files(tmp_path, settings):
    trained = network("deit-cifar", **settings)
    path = tmp_path / "folder" / "file.safetensors"
    save_trained(path, trained, INFO)
    assert is_trained_checkpoint(path) and not is_trained_checkpoint(tmp_path / "none")
    read, info = read_trained(path)
    assert info == INFO and read.config == trained.config and not read.training
    with torch.no_grad():
        assert torch.equal(read(images("deit-cifar")), trained.eval()(images("deit-cifar")))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_trained(path)


@pytest.mark.parametrize(
    "change",
    [{"bits": 1}, {"bits": 9}, {"map_scales": "x"}, {"rectify": "no"}, {"guidance": -1.0}, {"stream_images": 1.5}],
)
def test_config_rejects_what_cannot_be(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        QatConfig(**change)
