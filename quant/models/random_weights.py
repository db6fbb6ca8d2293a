"""Networks with random weights and plausible activations, for everything that needs a network but not its accuracy."""

from collections.abc import Sequence

import torch
from torch import nn

from quant.data import normalise
from quant.data.noise import noise_images
from quant.models.efficientvit import EfficientViT, EfficientViTConfig

__all__ = ["random_model"]


def random_model(
    config: EfficientViTConfig, size: int, mean: Sequence[float], std: Sequence[float], seed: int = 0
) -> EfficientViT:
    """Random weights, with batch norms that have seen images, so that activations neither vanish nor explode.

    `size` is the input's height and width in pixels.
    """
    torch.manual_seed(seed)
    model = EfficientViT(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = 1.0
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    with torch.no_grad():
        model.train()(normalise(noise_images(16, size, seed + 1), mean, std))
    return model.eval()
