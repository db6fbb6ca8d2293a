"""Small networks with random weights for tests of everything that reads an `IntegerNetwork`."""

from __future__ import annotations

import numpy as np
import torch

from quant.data import normalise
from quant.integer_network import IntegerNetwork
from quant.models.efficientvit import EFFICIENTVIT, EfficientViT, EfficientViTConfig
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


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured noise: (count, size, size, 3) uint8 with the full range of brightness."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, size, size)
    for cells in (2, 4, 8, 16):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        images += torch.nn.functional.interpolate(noise, size, mode="bilinear", align_corners=False)
    images = (128 + 50 * images).clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def random_model(config: EfficientViTConfig, size: int, seed: int = 0) -> EfficientViT:
    """Random weights, with batch norms that have seen images, so that activations neither vanish nor explode."""
    torch.manual_seed(seed)
    model = EfficientViT(config)
    images = normalise(random_images(16, size, seed + 1), MEAN, STD)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = 1.0
        elif isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
    with torch.no_grad():
        model.train()(images)
    return model.eval()


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

    `name` is a key of `CONFIGS`; `settings` are further fields of `QuantizerConfig`.
    """
    model = random_model(CONFIGS[name], size, seed)
    config = QuantizerConfig(act_bits=act_bits, weight_bits=weight_bits, **settings)
    network = quantize(model, random_images(16, size, seed + 1), MEAN, STD, config)
    return network, torch.from_numpy(random_images(images, size, seed + 2))
