"""DeiT image classifiers in floating point: Vision Transformers of one resolution, plain or distilled.

The module tree and the state-dict keys are timm's, which are also those of the original code (facebookresearch/deit).

Reference: Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021,
sections 3 and 4.

Shapes in comments: B images, C channels, K class and distillation tokens, N = (size / patch)^2 patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.models.transformer import Attention, Mlp, SizeError, check_positive, embedding, initialise

__all__ = ["DEIT", "NORM_EPSILON", "DeiT", "DeiTBlock", "DeiTConfig", "PatchEmbedding", "resized_positions"]

NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class DeiTConfig:
    """Sizes of one DeiT classifier.

    Parameters
    ----------
    width : channels of a token.
    depth : blocks.
    heads : of the attention; divides ``width``.
    size : height and width of the input in pixels, a multiple of ``patch``.
    patch : height and width of a patch in pixels.
    mlp_ratio : hidden channels of the MLP over ``width``.
    distilled : a distillation token beside the class token, with a classifier of its own.
    num_classes : outputs of the last layer; with 0 there is none, and the features of the class token come out.
    """

    width: int
    depth: int
    heads: int
    size: int = 224
    patch: int = 16
    mlp_ratio: int = 4
    distilled: bool = False
    num_classes: int = 1000

    def __post_init__(self) -> None:
        names = ("width", "depth", "heads", "size", "patch", "mlp_ratio")
        check_positive("DeiTConfig", {name: getattr(self, name) for name in names})
        if self.num_classes < int(self.distilled):
            raise SizeError(f"a {'distilled ' * self.distilled}network cannot have {self.num_classes} classes")
        if self.width % self.heads:
            raise SizeError(f"{self.heads} heads do not divide the width {self.width}")
        if self.size % self.patch:
            raise SizeError(f"an input of {self.size} pixels is not a multiple of the patch, {self.patch} pixels")

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.size // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return 2 if self.distilled else 1

    def replace(self, **changes: object) -> DeiTConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


_PLAIN = {
    "deit-t": DeiTConfig(width=192, depth=12, heads=3),
    "deit-s": DeiTConfig(width=384, depth=12, heads=6),
    "deit-b": DeiTConfig(width=768, depth=12, heads=12),
    # small enough to be trained on CIFAR-10 without a GPU
    "deit-cifar": DeiTConfig(width=64, depth=4, heads=2, size=32, patch=4, num_classes=10),
}
DEIT: dict[str, DeiTConfig] = {
    **_PLAIN,
    **{f"{name}-distilled": config.replace(distilled=True) for name, config in _PLAIN.items()},
}


class PatchEmbedding(nn.Module):
    """Patches become tokens by a linear layer, written as a convolution whose stride is its kernel.

    Members
    -------
    proj : ``nn.Conv2d``.
    norm : ``nn.LayerNorm`` or nothing.
    """

    def __init__(self, width: int, patch: int, norm_epsilon: float | None = None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.norm = nn.Identity() if norm_epsilon is None else nn.LayerNorm(width, eps=norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, size, size) to (B, grid, grid, C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class DeiTBlock(nn.Module):
    """Attention, then MLP, each behind a LayerNorm and added to its input.

    Members
    -------
    norm1, norm2 : ``nn.LayerNorm``.
    attn : ``Attention``.
    mlp : ``Mlp``.
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.mlp = Mlp(config.width, config.mlp_ratio * config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, K + N, C) to (B, K + N, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """DeiT classifier.

    Members
    -------
    config : the sizes it was built with.
    cls_token, dist_token : (1, 1, C); the second one of distilled networks only.
    pos_embed : (1, K + N, C).
    patch_embed : ``PatchEmbedding``.
    blocks : ``nn.Sequential`` of ``DeiTBlock``.
    norm : ``nn.LayerNorm``.
    head, head_dist : ``nn.Linear`` on the class and the distillation token; scores are their mean. Without classes,
        ``head`` is the identity.
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.width, config.patch)
        self.blocks = nn.Sequential(*(DeiTBlock(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        self.head_dist = nn.Linear(config.width, config.num_classes) if config.distilled else None
        initialise(self)
        self.cls_token = embedding(1, 1, config.width)
        self.dist_token = embedding(1, 1, config.width) if config.distilled else None
        self.pos_embed = embedding(1, config.prefix + config.grid**2, config.width)

    @property
    def tokens(self) -> Tensor:
        """(1, K, C): class token, distillation token."""
        return self.cls_token if self.dist_token is None else torch.cat((self.cls_token, self.dist_token), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, size, size) to logits (B, num_classes), without classes to features (B, C)."""
        patches = self.patch_embed(x).flatten(1, 2)
        x = torch.cat((self.tokens.expand(len(x), -1, -1), patches), 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        scores = self.head(x[:, 0])
        return scores if self.head_dist is None else (scores + self.head_dist(x[:, 1])) / 2


def resized_positions(positions: Tensor, prefix: int, grid: int) -> Tensor:
    """Positions (1, prefix + n * n, C) for `grid` patches in a row: bicubic, as the original code has it."""
    table = positions[:, prefix:]
    side = round(table.shape[1] ** 0.5)
    if side == grid:
        return positions
    table = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :prefix], table.flatten(2).transpose(1, 2)), 1)
