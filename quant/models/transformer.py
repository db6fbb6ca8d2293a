"""What DeiT and Swin have in common: the layers of a transformer block, under timm's names.

Shapes in comments: B images, N tokens, C channels, T tokens that see each other, h heads, d = C / h channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "Mlp", "SizeError", "check_positive", "embedding", "initialise"]

#: standard deviation of fresh weights, tokens, and positions
INITIAL_DEVIATION = 0.02


class SizeError(ValueError):
    """Sizes that a network cannot have; the message says which."""


class Attention(nn.Module):
    """Softmax attention among all tokens it is given: softmax(q k^T / sqrt(d) + bias) v, then a linear layer.

    Members
    -------
    heads : number of heads; q, k, and v are each heads x d channels.
    qkv, proj : ``nn.Linear``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); `bias`, broadcastable to (B, h, T, T), is added before the softmax."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)  # (B, h, T, d)
        scores = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5
        attention = (scores if bias is None else scores + bias).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, t, c))


class Mlp(nn.Module):
    """Two linear layers with a GELU (its exact form) between them.

    Members
    -------
    fc1, fc2 : ``nn.Linear``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


def initialise(model: nn.Module) -> None:
    """Fresh values as both papers have them: truncated normal weights, biases of zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=INITIAL_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_positive(name: str, sizes: dict[str, int]) -> None:
    """Raise `SizeError` unless all sizes are 1 or more."""
    wrong = {key: value for key, value in sizes.items() if value < 1}
    if wrong:
        raise SizeError(f"{name} needs positive sizes, got {wrong}")


def embedding(*shape: int) -> nn.Parameter:
    """A learned table."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=INITIAL_DEVIATION))
