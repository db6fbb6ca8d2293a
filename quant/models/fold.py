"""Batch-norm folding: every convolution followed by a batch norm becomes one convolution with bias.

With running mean m, variance v, scale g and shift b of the batch norm::

    weight' = weight * g / sqrt(v + eps)
    bias'   = (bias - m) * g / sqrt(v + eps) + b
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from quant.models.efficientvit import ConvLayer

__all__ = ["fold_batch_norms"]


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode, without batch norms.

    In every ``ConvLayer`` with a batch norm, ``conv`` gets the folded weight and bias and ``norm``
    becomes None. The folding is computed in float64 and rounded once. ``model`` is left as it is.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvLayer) and module.norm is not None:
            _fold(module.conv, module.norm)
            module.norm = None
    return folded


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)  # (Cout,)
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]  # (Cout, Cin / groups, k, k)
    bias = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype))
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype))
