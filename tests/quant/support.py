"""Small networks with random weights for tests of everything that reads an `IntegerNetwork`."""

from __future__ import annotations

from functools import lru_cache

import torch

from quant.data.noise import noise_images
from quant.integer_network import IntegerNetwork
from quant.models.deit import DeiTConfig
from quant.models.efficientvit import EFFICIENTVIT, EfficientViTConfig
from quant.models.random_weights import random_model
from quant.models.swin import SwinConfig
from quant.quantize import QuantizerConfig, quantize

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.25)

#: structures that RTL simulation gets through quickly; "odd" has channel counts that fill no block of lanes
CONFIGS = {
    "tiny": EfficientViTConfig(
        widths=(8, 16, 16, 32, 32), depths=(1, 1, 1, 1, 1), head_dim=16, head_widths=(32, 48), num_classes=10
    ),
    "odd": EfficientViTConfig(
        widths=(6, 10, 12, 24, 40), depths=(1, 2, 1, 1, 2), head_dim=8, head_widths=(36, 50), num_classes=7
    ),
    **EFFICIENTVIT,
}
#: likewise transformers, for 32 pixels
TRANSFORMERS = {
    "deit": DeiTConfig(width=48, depth=2, heads=3, size=32, patch=8, mlp_ratio=2, distilled=True, num_classes=10),
    "swin": SwinConfig(width=24, depths=(2, 2), heads=(2, 4), size=32, patch=4, window=4, mlp_ratio=2, num_classes=10),
}


@lru_cache(maxsize=32)
def tiny_network(
    size: int = 32,
    act_bits: int = 8,
    weight_bits: int = 8,
    seed: int = 0,
    name: str = "tiny",
    images: int = 4,
    **settings: object,
) -> tuple[IntegerNetwork, torch.Tensor]:
    """A quantized network with random weights, and images (images, size, size, 3) uint8 for it.

    `name` is a key of `CONFIGS` or `TRANSFORMERS`; `settings` are further fields of `QuantizerConfig`. Callers share
    the result of equal calls and must not change it.
    """
    model = random_model((CONFIGS | TRANSFORMERS)[name], size, MEAN, STD, seed)
    config = QuantizerConfig(act_bits=act_bits, weight_bits=weight_bits, **settings)
    network = quantize(model, noise_images(16, size, seed + 1), MEAN, STD, config)
    return network, torch.from_numpy(noise_images(images, size, seed + 2))
