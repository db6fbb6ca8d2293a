"""EfficientViT B0..B3 image classifiers in floating point.

The module tree and the state-dict keys are those of the official implementation
(mit-han-lab/efficientvit), so official checkpoints load without renaming.

Reference: Cai et al., "EfficientViT: Lightweight Multi-Scale Attention for High-Resolution Dense
Prediction", ICCV 2023, sections 3.1 and 3.2.

Shapes in comments: B images, C channels, H x W pixels, N = H * W tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ATTENTION_EPS",
    "EFFICIENTVIT",
    "ClsHead",
    "ConvLayer",
    "DSConv",
    "EfficientViT",
    "EfficientViTBackbone",
    "EfficientViTBlock",
    "EfficientViTConfig",
    "IdentityLayer",
    "LinearLayer",
    "LiteMLA",
    "MBConv",
    "OpSequential",
    "ResidualBlock",
    "build_efficientvit",
]

# Keeps the attention divisor away from zero; the value of the official code (timm has 1e-5).
ATTENTION_EPS = 1e-15


@dataclass(frozen=True, kw_only=True)
class EfficientViTConfig:
    """Sizes of one EfficientViT B classifier.

    Parameters
    ----------
    widths : channels of the stem and the four stages.
    depths : residual blocks of the stem, blocks of stages 1 and 2 (the down-sampling one
        included), attention blocks of stages 3 and 4 (the down-sampling one not included).
    head_dim : channels of one attention head; divides ``widths[3]`` and ``widths[4]``.
    head_widths : channels of the head's 1x1 convolution and of its hidden linear layer.
    expand_ratio : middle channels of an MBConv over its input channels.
    num_classes : outputs of the last linear layer.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_dim: int
    head_widths: tuple[int, int]
    expand_ratio: int = 4
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if len(self.widths) != 5 or len(self.depths) != 5 or len(self.head_widths) != 2:
            raise ValueError(
                "EfficientViTConfig needs 5 widths, 5 depths and 2 head widths, got "
                f"{self.widths}, {self.depths} and {self.head_widths}"
            )
        sizes = (*self.widths, *self.depths, *self.head_widths, self.expand_ratio)
        if min(sizes) < 1 or self.num_classes < 1:
            raise ValueError(f"EfficientViTConfig needs positive sizes, got {self}")
        for width in self.widths[3:]:
            if width % self.head_dim:
                raise ValueError(
                    f"head_dim {self.head_dim} does not divide the attention width {width}; "
                    "choose a head_dim that divides widths[3] and widths[4]"
                )

    def replace(self, **changes: object) -> EfficientViTConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


EFFICIENTVIT: dict[str, EfficientViTConfig] = {
    "b0": EfficientViTConfig(
        widths=(8, 16, 32, 64, 128),
        depths=(1, 2, 2, 2, 2),
        head_dim=16,
        head_widths=(1024, 1280),
    ),
    "b1": EfficientViTConfig(
        widths=(16, 32, 64, 128, 256),
        depths=(1, 2, 3, 3, 4),
        head_dim=16,
        head_widths=(1536, 1600),
    ),
    "b2": EfficientViTConfig(
        widths=(24, 48, 96, 192, 384),
        depths=(1, 3, 4, 4, 6),
        head_dim=32,
        head_widths=(2304, 2560),
    ),
    "b3": EfficientViTConfig(
        widths=(32, 64, 128, 256, 512),
        depths=(1, 4, 6, 6, 9),
        head_dim=32,
        head_widths=(2304, 2560),
    ),
}


class ConvLayer(nn.Module):
    """Convolution, then an optional batch norm, then an optional hard swish.

    Padding keeps H and W at stride 1. The convolution has a bias exactly where the official
    network has one.

    Members
    -------
    conv : the ``nn.Conv2d``.
    norm : ``nn.BatchNorm2d`` or None.
    act : ``nn.Hardswish`` or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        self.act = nn.Hardswish() if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, H, W) to (B, Cout, H / stride, W / stride)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return x


class LinearLayer(nn.Module):
    """Linear layer, then an optional layer norm, then an optional hard swish.

    Members
    -------
    linear : the ``nn.Linear``.
    norm : ``nn.LayerNorm`` or None.
    act : ``nn.Hardswish`` or None.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, norm: bool, act: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.norm = nn.LayerNorm(out_features) if norm else None
        self.act = nn.Hardswish() if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin) to (B, Cout); trailing axes of size one are dropped first."""
        x = self.linear(x.flatten(1))
        if self.norm is not None:
            x = self.norm(x)
        if self.act is not None:
            x = self.act(x)
        return x


class IdentityLayer(nn.Module):
    """Shortcut of a residual block."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


class DSConv(nn.Module):
    """Depthwise-separable convolution: 3x3 depthwise with hard swish, then linear 1x1.

    Members
    -------
    depth_conv, point_conv : the two ``ConvLayer``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.depth_conv = ConvLayer(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        self.point_conv = ConvLayer(in_channels, out_channels, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, H, W) to (B, Cout, H / stride, W / stride)."""
        return self.point_conv(self.depth_conv(x))


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, 3x3 depthwise, linear 1x1 projection.

    ``fewer_norm`` replaces the batch norm of the first two convolutions by a bias, as the
    attention stages have it.

    Members
    -------
    inverted_conv, depth_conv, point_conv : the three ``ConvLayer``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expand_ratio: int = 4,
        fewer_norm: bool = False,
    ) -> None:
        super().__init__()
        mid = in_channels * expand_ratio
        inner = {"bias": fewer_norm, "norm": not fewer_norm}
        self.inverted_conv = ConvLayer(in_channels, mid, 1, **inner)
        self.depth_conv = ConvLayer(mid, mid, 3, stride=stride, groups=mid, **inner)
        self.point_conv = ConvLayer(mid, out_channels, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, H, W) to (B, Cout, H / stride, W / stride)."""
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class LiteMLA(nn.Module):
    """Multi-scale linear attention with ReLU feature maps.

    Per head, with q and k after ReLU and t, s running over the tokens::

        out[t] = (sum_s v[s] * k[s].T) @ q[t] / (sum_s k[s].T @ q[t] + eps)

    The linear form is used at every size (the official code switches to the mathematically equal
    quadratic form for N <= head_dim). Channels of ``qkv`` are interleaved per head: q, k and v of
    head 0, then of head 1, and so on; the heads of the 5x5 branch follow those of the identity
    branch.

    Members
    -------
    qkv : 1x1 ``ConvLayer`` C -> 3C without bias, norm or activation.
    aggreg : one ``nn.Sequential`` (depthwise 5x5, grouped 1x1 with 3 * heads groups), no biases.
    kernel_func : the ``nn.ReLU`` on q and k.
    proj : 1x1 ``ConvLayer`` 2C -> C with batch norm.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.dim = head_dim
        self.heads = channels // head_dim
        self.eps = ATTENTION_EPS
        total = 3 * channels
        self.qkv = ConvLayer(channels, total, 1, norm=False, act=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(total, total, 5, padding=2, groups=total, bias=False),
                    nn.Conv2d(total, total, 1, groups=3 * self.heads, bias=False),
                )
            ]
        )
        self.kernel_func = nn.ReLU()
        self.proj = ConvLayer(2 * channels, channels, 1, act=False)

    def relu_linear_att(self, qkv: Tensor) -> Tensor:
        """Attend within each head of both branches.

        Parameters
        ----------
        qkv : (B, 6C, H, W), the two branches joined.

        Returns
        -------
        (B, 2C, H, W).
        """
        batch, _, height, width = qkv.shape
        qkv = qkv.reshape(batch, -1, 3 * self.dim, height * width)  # (B, 2*heads, 3*dim, N)
        q, k, v = qkv.split(self.dim, dim=2)  # (B, 2*heads, dim, N) each
        q, k = self.kernel_func(q), self.kernel_func(k)
        v = F.pad(v, (0, 0, 0, 1), value=1.0)  # row of ones: its output is the divisor
        vk = torch.matmul(v, k.transpose(-1, -2))  # (B, 2*heads, dim+1, dim)
        out = torch.matmul(vk, q)  # (B, 2*heads, dim+1, N)
        out = out[:, :, :-1] / (out[:, :, -1:] + self.eps)
        return out.reshape(batch, -1, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        qkv = self.qkv(x)  # (B, 3C, H, W)
        qkv = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)  # (B, 6C, H, W)
        return self.proj(self.relu_linear_att(qkv))


class ResidualBlock(nn.Module):
    """``main(x) + shortcut(x)``, or ``main(x)`` where ``shortcut`` is None.

    Members
    -------
    main : the wrapped block.
    shortcut : ``IdentityLayer`` or None.
    """

    def __init__(self, main: nn.Module, *, skip: bool = True) -> None:
        super().__init__()
        self.main = main
        self.shortcut = IdentityLayer() if skip else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the shape of ``main(x)``."""
        y = self.main(x)
        return y if self.shortcut is None else y + self.shortcut(x)


class EfficientViTBlock(nn.Module):
    """Residual linear attention, then a residual MBConv.

    Members
    -------
    context_module : ``ResidualBlock`` of a ``LiteMLA``.
    local_module : ``ResidualBlock`` of an ``MBConv``.
    """

    def __init__(self, channels: int, *, head_dim: int, expand_ratio: int) -> None:
        super().__init__()
        self.context_module = ResidualBlock(LiteMLA(channels, head_dim))
        self.local_module = ResidualBlock(MBConv(channels, channels, expand_ratio=expand_ratio, fewer_norm=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.local_module(self.context_module(x))


class OpSequential(nn.Module):
    """Blocks in a row.

    Members
    -------
    op_list : ``nn.ModuleList`` of the blocks.
    """

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(ops)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks in order."""
        for op in self.op_list:
            x = op(x)
        return x


class EfficientViTBackbone(nn.Module):
    """Stem, two convolution stages and two attention stages; each halves H and W.

    Members
    -------
    input_stem : ``OpSequential`` of the first convolution and residual ``DSConv`` blocks.
    stages : ``nn.ModuleList`` of four ``OpSequential``.
    """

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__()
        widths, depths = config.widths, config.depths
        stem: list[nn.Module] = [ConvLayer(3, widths[0], 3, stride=2)]
        stem += [ResidualBlock(DSConv(widths[0], widths[0])) for _ in range(depths[0])]
        self.input_stem = OpSequential(stem)
        self.stages = nn.ModuleList(self._stage(config, index) for index in range(1, 5))

    @staticmethod
    def _stage(config: EfficientViTConfig, index: int) -> OpSequential:
        c_in, c_out = config.widths[index - 1 : index + 1]
        depth, expand_ratio = config.depths[index], config.expand_ratio
        attention = index >= 3
        down = MBConv(c_in, c_out, stride=2, expand_ratio=expand_ratio, fewer_norm=attention)
        blocks: list[nn.Module] = [ResidualBlock(down, skip=False)]
        if attention:
            blocks += [
                EfficientViTBlock(c_out, head_dim=config.head_dim, expand_ratio=expand_ratio) for _ in range(depth)
            ]
        else:
            blocks += [ResidualBlock(MBConv(c_out, c_out, expand_ratio=expand_ratio)) for _ in range(depth - 1)]
        return OpSequential(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, widths[4], H / 32, W / 32)."""
        x = self.input_stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


class ClsHead(OpSequential):
    """1x1 convolution, global average pool, hidden linear layer with layer norm, classifier.

    Members
    -------
    op_list : ``ConvLayer``, ``nn.AdaptiveAvgPool2d``, ``LinearLayer``, ``LinearLayer``.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int], num_classes: int) -> None:
        super().__init__(
            [
                ConvLayer(in_channels, widths[0], 1),
                nn.AdaptiveAvgPool2d(1),
                LinearLayer(widths[0], widths[1], bias=False, norm=True, act=True),
                LinearLayer(widths[1], num_classes, bias=True, norm=False, act=False),
            ]
        )


class EfficientViT(nn.Module):
    """EfficientViT B classifier.

    Members
    -------
    config : the sizes it was built with.
    backbone : ``EfficientViTBackbone``.
    head : ``ClsHead``.
    """

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientViTBackbone(config)
        self.head = ClsHead(config.widths[4], config.head_widths, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, num_classes).

        H and W are free; multiples of 32 lose no pixels at the strides.
        """
        return self.head(self.backbone(x))


def build_efficientvit(name: str, num_classes: int = 1000) -> EfficientViT:
    """Build a randomly initialised classifier.

    Parameters
    ----------
    name : a key of ``EFFICIENTVIT`` ("b0" .. "b3").
    num_classes : outputs of the last layer.

    Raises
    ------
    ValueError : unknown name.
    """
    if name not in EFFICIENTVIT:
        raise ValueError(f"unknown EfficientViT {name!r}; choose one of {sorted(EFFICIENTVIT)}")
    return EfficientViT(EFFICIENTVIT[name].replace(num_classes=num_classes))
