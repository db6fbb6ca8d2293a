"""Networks with random weights and plausible activations, for everything that needs a network but not its accuracy."""

from collections.abc import Sequence

import torch
from torch import nn

from quant.data import normalise
from quant.data.noise import noise_images
from quant.models.deit import DeiT
from quant.models.efficientvit import EfficientViT
from quant.models.registry import Config, Model, at_size, build
from quant.models.swin import WindowAttention

__all__ = ["random_model"]


def random_model(config: Config, size: int, mean: Sequence[float], std: Sequence[float], seed: int = 0) -> Model:
    """Random weights under which activations neither vanish nor explode: batch norms have seen images; linear layers
    keep the size of what they read.

    `size` is the input's height and width in pixels.
    """
    torch.manual_seed(seed)
    model = at_size(build(config), size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = 1.0
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    if not isinstance(model, EfficientViT):
        _spread(model)
    with torch.no_grad():
        model.train()(normalise(noise_images(16, size, seed + 1), mean, std))
    return model.eval()


def _spread(model: nn.Module) -> None:
    """Weights, tokens, positions, and biases of a transformer, which start too small for attention to choose."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.0, 0.1)
        if isinstance(module, WindowAttention):
            nn.init.normal_(module.relative_position_bias_table, 0.0, 0.5)
    if isinstance(model, DeiT):
        for table in (model.cls_token, model.dist_token, model.pos_embed):
            if table is not None:
                nn.init.normal_(table, 0.0, 0.5)
