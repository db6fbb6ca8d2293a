"""Random weights and batch-norm statistics under which the output depends on the input at every layer."""

import torch
from torch import nn


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter and statistic with random values; return ``model`` in evaluation mode.

    Weights about keep the variance of their input (with PyTorch's defaults it dies out over the depth).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5, generator=generator)
        if getattr(module, "bias", None) is not None:
            module.bias.normal_(0.0, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()
