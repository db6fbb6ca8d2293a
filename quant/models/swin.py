"""Swin image classifiers in floating point: attention within windows that shift from block to block.

The module tree and the state-dict keys are timm's.

Reference: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, section 3.

Shapes in comments: B images, H x W tokens, C channels, h heads, T = window^2 tokens that see each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quant.models.deit import PatchEmbedding
from quant.models.transformer import Attention, Mlp, SizeError, check_positive, embedding, initialise

__all__ = [
    "NORM_EPSILON",
    "SWIN",
    "PatchMerging",
    "Swin",
    "SwinBlock",
    "SwinConfig",
    "WindowAttention",
    "merge_patches",
    "merge_windows",
    "shift_mask",
    "split_windows",
]

NORM_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Sizes of one Swin classifier.

    Parameters
    ----------
    width : channels of the first stage; every further stage has twice as many, and half the height and width.
    depths : blocks of each stage.
    heads : heads of each stage; each divides the stage's channels.
    size : height and width of the input in pixels.
    patch : height and width of a patch in pixels.
    window : height and width of a window in tokens. A stage that is not larger has one window, without shifts.
    mlp_ratio : hidden channels of the MLP over those of the stage.
    num_classes : outputs of the last layer.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    size: int = 224
    patch: int = 4
    window: int = 7
    mlp_ratio: int = 4
    num_classes: int = 1000

    def __post_init__(self) -> None:
        names = ("width", "size", "patch", "window", "mlp_ratio", "num_classes")
        check_positive("SwinConfig", {name: getattr(self, name) for name in names})
        if not self.depths or len(self.depths) != len(self.heads) or min(*self.depths, *self.heads) < 1:
            raise SizeError(f"depths {self.depths} and heads {self.heads} must be positive, one each per stage")
        if self.size % (self.patch << (len(self.depths) - 1)):
            raise SizeError(f"an input of {self.size} pixels cannot be halved {len(self.depths) - 1} times in patches")
        for stage, heads in enumerate(self.heads):
            if self.width_of(stage) % heads:
                raise SizeError(f"{heads} heads do not divide the {self.width_of(stage)} channels of stage {stage}")
            if self.grid_of(stage) % self.window_of(stage):
                raise SizeError(
                    f"windows of {self.window} do not tile the {self.grid_of(stage)} x {self.grid_of(stage)} tokens of "
                    f"stage {stage} at {self.size} pixels; choose another size, or another window"
                )

    def width_of(self, stage: int) -> int:
        """Channels of a stage, from 0."""
        return self.width << stage

    def grid_of(self, stage: int) -> int:
        """Tokens in a row of a stage."""
        return self.size // self.patch >> stage

    def window_of(self, stage: int) -> int:
        """Tokens in a row of a window of a stage."""
        return min(self.window, self.grid_of(stage))

    def shift_of(self, stage: int, block: int) -> int:
        """Tokens by which the windows of a block are shifted."""
        return self.window // 2 if block % 2 and self.grid_of(stage) > self.window else 0

    def replace(self, **changes: object) -> SwinConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


SWIN: dict[str, SwinConfig] = {
    "swin-t": SwinConfig(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "swin-s": SwinConfig(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "swin-b": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    # small enough to be trained on CIFAR-10 without a GPU
    "swin-cifar": SwinConfig(
        width=48, depths=(2, 2, 2), heads=(2, 4, 8), size=32, patch=2, window=4, mlp_ratio=2, num_classes=10
    ),
}


def split_windows(x: Tensor, window: int) -> Tensor:
    """Map (B, H, W, C) to (B * windows, T, C), windows and tokens in raster order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def merge_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `split_windows`: map (B * windows, T, C) to (B, H, W, C)."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, height, width, x.shape[-1])


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Which tokens of a shifted window do not see each other, as they were brought together by the cyclic shift:
    bool (windows, T, T)."""
    regions = torch.zeros(1, height, width, 1)
    # The last window of a row or column holds, behind its first window - shift tokens, the ones that went around.
    regions[:, height - shift :] += 1
    regions[:, :, width - shift :] += 2
    regions = split_windows(regions, window)[:, :, 0]
    return regions[:, :, None] != regions[:, None, :]


def merge_patches(x: Tensor) -> Tensor:
    """Map (B, H, W, C) to (B, H / 2, W / 2, 4 C): of 2 x 2 tokens the left two, then the right two."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * c)


class WindowAttention(Attention):
    """Attention within windows, with a bias for every pair of positions in a window.

    Members
    -------
    window, shift : in tokens.
    relative_position_bias_table : ((2 window - 1)^2, h), one row for every offset between two tokens.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__(width, heads)
        self.window, self.shift = window, shift
        self.relative_position_bias_table = embedding((2 * window - 1) ** 2, heads)

    @property
    def bias(self) -> Tensor:
        """(h, T, T), the table's values for all pairs of tokens."""
        line = torch.arange(self.window)
        rows, columns = (x.flatten() for x in torch.meshgrid(line, line, indexing="ij"))
        span = 2 * self.window - 1
        down = rows[:, None] - rows + self.window - 1
        right = columns[:, None] - columns + self.window - 1
        return self.relative_position_bias_table[down * span + right].permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, h, w, _ = x.shape
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = split_windows(x, self.window)
        bias = self.bias
        if self.shift:
            mask = shift_mask(h, w, self.window, self.shift).to(x.device)
            bias = bias.masked_fill(mask[:, None], -torch.inf)  # (windows, h, T, T)
            bias = bias.repeat(len(x) // len(mask), 1, 1, 1)
        x = merge_windows(super().forward(x, bias), self.window, h, w)
        return torch.roll(x, (self.shift, self.shift), (1, 2))


class SwinBlock(nn.Module):
    """Attention within windows, then MLP, each behind a LayerNorm and added to its input.

    Members
    -------
    norm1, norm2 : ``nn.LayerNorm``.
    attn : ``WindowAttention``.
    mlp : ``Mlp``.
    """

    def __init__(self, config: SwinConfig, stage: int, block: int) -> None:
        super().__init__()
        width = config.width_of(stage)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = WindowAttention(width, config.heads[stage], config.window_of(stage), config.shift_of(stage, block))
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, config.mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of twice the channels: LayerNorm and linear layer on the four together.

    Members
    -------
    norm : ``nn.LayerNorm``.
    reduction : ``nn.Linear`` without bias.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=NORM_EPSILON)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2 C)."""
        return self.reduction(self.norm(merge_patches(x)))


class SwinStage(nn.Module):
    """Patch merging, except in the first stage, and blocks.

    Members
    -------
    downsample : ``PatchMerging`` or nothing.
    blocks : ``nn.Sequential`` of ``SwinBlock``.
    """

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.downsample = PatchMerging(config.width_of(stage - 1)) if stage else nn.Identity()
        self.blocks = nn.Sequential(*(SwinBlock(config, stage, block) for block in range(config.depths[stage])))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        return self.blocks(self.downsample(x))


class SwinHead(nn.Module):
    """Mean of all tokens, and a linear layer.

    Members
    -------
    fc : ``nn.Linear``.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, num_classes)."""
        return self.fc(x.mean((1, 2)))


class Swin(nn.Module):
    """Swin classifier.

    Members
    -------
    config : the sizes it was built with.
    patch_embed : ``PatchEmbedding`` with a LayerNorm.
    layers : ``nn.Sequential`` of stages.
    norm : ``nn.LayerNorm``.
    head : mean and linear layer.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.width, config.patch, NORM_EPSILON)
        self.layers = nn.Sequential(*(SwinStage(config, stage) for stage in range(len(config.depths))))
        width = config.width_of(len(config.depths) - 1)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.head = SwinHead(width, config.num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, size, size) to logits (B, num_classes)."""
        return self.head(self.norm(self.layers(self.patch_embed(x))))
