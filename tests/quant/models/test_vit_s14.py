"""The trained ViT-S/14: names in its file, LayerScale, and the network itself where it can be fetched."""

import builtins

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quant.data import DataError, normalise
from quant.data.noise import noise_images
from quant.graph import FloatGraph
from quant.models.deit import DeiT, DeiTConfig
from quant.models.vit_s14 import CONFIG, deit_state, load_vit_s14, read_onnx

TINY = DeiTConfig(width=12, depth=2, heads=3, size=16, patch=4, mlp_ratio=2, num_classes=0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: first features of the class token that ONNX Runtime 1.32 computes with the file itself for two images of noise
EXPECTED = [[-1.824492, -0.415751, 0.653692, -1.521021], [-1.794466, -0.312375, 0.289510, -1.318318]]


def tensors(side: int = 4) -> dict[str, torch.Tensor]:
    """What a file holds of a network like `TINY`, trained on `side` x `side` patches."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    width, hidden = TINY.width, TINY.mlp_ratio * TINY.width
    found = {
        "backbone.embeddings.cls_token": some(1, 1, width),
        "backbone.embeddings.Concat_6": some(1, 1, width),
        "backbone.embeddings.Reshape_1": some(1, side * side, width),
        "backbone.embeddings.patch_embeddings.projection.weight": some(width, 3, 4, 4),
        "backbone.embeddings.patch_embeddings.projection.bias": some(width),
        "backbone.layernorm.weight": some(width),
        "backbone.layernorm.bias": some(width),
        "decoder.final_conv.bias": some(1),
    }
    for index in range(TINY.depth):
        layer = f"backbone.encoder.layer.{index}"
        for norm in ("norm1", "norm2"):
            found |= {f"{layer}.{norm}.weight": some(width), f"{layer}.{norm}.bias": some(width)}
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            found |= {
                f"{layer}.attention.{part}.weight": some(width, width) / 4,
                f"{layer}.attention.{part}.bias": some(width),
            }
        for name, shape in (("fc1", (hidden, width)), ("fc2", (width, hidden))):
            found |= {f"{layer}.mlp.{name}.weight": some(*shape) / 4, f"{layer}.mlp.{name}.bias": some(shape[0])}
        found |= {f"{layer}.layer_scale{number}.lambda1": some(width) for number in (1, 2)}
    return found


def block(x: torch.Tensor, found: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """One block as it was trained: three layers for q, k, and v, and LayerScale apart."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, found[f"{layer}.{name}.weight"], found[f"{layer}.{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], found[f"{layer}.{name}.weight"], found[f"{layer}.{name}.bias"], 1e-6)

    y = norm("norm1", x)
    heads = [
        linear(f"attention.attention.{part}", y).unflatten(-1, (TINY.heads, -1)).transpose(1, 2)
        for part in ("query", "key", "value")
    ]
    attention = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    x = x + found[f"{layer}.layer_scale1.lambda1"] * linear("attention.output.dense", attention)
    hidden = F.gelu(linear("mlp.fc1", norm("norm2", x)))
    return x + found[f"{layer}.layer_scale2.lambda1"] * linear("mlp.fc2", hidden)


def test_computes_what_was_trained():
    found = tensors()
    model = DeiT(TINY).eval()
    model.load_state_dict(deit_state(found, TINY))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    projection = "backbone.embeddings.patch_embeddings.projection"
    patches = F.conv2d(images, found[f"{projection}.weight"], found[f"{projection}.bias"], stride=4)
    x = torch.cat((found["backbone.embeddings.cls_token"].expand(2, -1, -1), patches.flatten(2).transpose(1, 2)), 1)
    x = x + torch.cat((found["backbone.embeddings.Concat_6"], found["backbone.embeddings.Reshape_1"]), 1)
    for index in range(TINY.depth):
        x = block(x, found, f"backbone.encoder.layer.{index}")
    expected = F.layer_norm(
        x, (TINY.width,), found["backbone.layernorm.weight"], found["backbone.layernorm.bias"], 1e-6
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected[:, 0], atol=1e-4, rtol=1e-4)
    *_, (_, result) = FloatGraph.from_model(model).run(images)
    torch.testing.assert_close(result["output"][:, :, 0].transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


def test_positions_are_interpolated_and_the_class_token_keeps_its_own():
    found = tensors(side=9)
    state = deit_state(found, TINY)
    assert state["pos_embed"].shape == (1, 17, 12)
    assert torch.equal(state["pos_embed"][:, :1], found["backbone.embeddings.Concat_6"])


def test_other_tensors_are_refused():
    found = tensors()
    with pytest.raises(DataError, match=r"no tensor 'backbone\.encoder\.layer\.2\."):
        deit_state(found, TINY.replace(depth=3))
    with pytest.raises(DataError, match=r"shapes of patch_embed\.proj\.weight do not fit"):
        deit_state(found, TINY.replace(size=20, patch=5))


def onnx_file(path: str = "/backbone/encoder/layer.0/mlp/fc1") -> bytes:
    """A product, a sum, and a constant without a name, as PyTorch exports them."""
    onnx = pytest.importorskip("onnx")
    layer = nn.Linear(3, 2)
    name = path.strip("/").replace("/", ".")
    values = {
        "onnx::MatMul_7": layer.weight.detach().T,
        f"{name}.bias": layer.bias.detach(),
        "onnx::Concat_9": torch.arange(2.0),
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name=f"{path}/MatMul"),
        onnx.helper.make_node("Add", [f"{name}.bias", "y"], ["z"], name=f"{path}/Add"),
        onnx.helper.make_node("Concat", ["onnx::Concat_9", "z"], ["out"], name="/backbone/embeddings/Concat_6", axis=0),
    ]
    constants = [onnx.numpy_helper.from_array(value.contiguous().numpy(), key) for key, value in values.items()]
    ends = [onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, None) for key in ("x", "out")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph).SerializeToString()


def test_constants_get_the_names_of_their_layers():
    found = read_onnx(onnx_file())
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    layer = "backbone.encoder.layer.0.mlp.fc1"
    assert shapes == {f"{layer}.weight": (2, 3), f"{layer}.bias": (2,), "backbone.embeddings.Concat_6": (2,)}
    assert found["backbone.embeddings.Concat_6"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("change", [lambda content: content[:-20], lambda _: b"<html>not found</html>"])
def test_damaged_bytes_are_told(change):
    with pytest.raises(DataError, match="not the bytes of a whole ONNX file"):
        read_onnx(change(onnx_file()))


def test_absent_package_is_told(monkeypatch):
    real = builtins.__import__

    def without_onnx(name, *arguments, **options):
        if name == "onnx":
            raise ImportError("no onnx")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(DataError, match=r"pip install 'vitsmith\[onnx\]'"):
        read_onnx(b"")


@pytest.fixture(scope="module")
def model() -> DeiT:
    pytest.importorskip("onnx")
    try:
        return load_vit_s14()
    except DataError as error:
        pytest.skip(f"no weights of ViT-S/14: {error}")


def test_is_a_trained_network(model):
    # Those of DeiT-S without classifier, positions for 256 patches; LayerScale is folded in.
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_619_584
    images = normalise(noise_images(2, CONFIG.size), MEAN, STD)
    with torch.no_grad():
        features = model(images)
    torch.testing.assert_close(features[:, :4], torch.tensor(EXPECTED), atol=1e-3, rtol=0)
    torch.testing.assert_close(FloatGraph.from_model(model).logits(images), features, atol=1e-3, rtol=0)
