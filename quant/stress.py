"""Networks whose depthwise inputs have outlier channels, as those trained on ImageNet do (Trio-ViT, section on PTQ).

A network trained on CIFAR-10 quantizes well even naively, so it shows nothing about a quantizer. This module makes a
hard network out of it without training: in every MBConv, a few channels of the expansion get outputs s times as large,
and the depthwise filters that read them get weights s times as small. Hard swish h is not homogeneous, so the channel
computes h(s u) / s in place of h(u), which goes to ReLU(u) for large s. Channels for which that makes the least
difference are taken, and the mean of the difference goes into the depthwise biases. What is left of it barely changes
the float network, but a step that covers the outliers is as coarse as all that the other channels have to say.

Wherever the command line takes a checkpoint, it takes `stress:CHECKPOINT` for such a network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quant.data import normalise
from quant.models.efficientvit import EfficientViT, MBConv

__all__ = ["CALIBRATION_IMAGES", "RATIOS", "SHARE", "depthwise_input_ranges", "widen_ranges"]

#: part of an expansion's channels that become outliers
SHARE = 1 / 32
#: an outlier's range over the median range of the channels lies between these
RATIOS = (32.0, 64.0)
#: images on which ranges are well measured
CALIBRATION_IMAGES = 256


@torch.no_grad()
def widen_ranges(
    model: EfficientViT,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    share: float = SHARE,
    ratios: tuple[float, float] = RATIOS,
    seed: int = 0,
) -> EfficientViT:
    """Return a copy of `model` with outlier channels in every MBConv's depthwise input.

    Parameters
    ----------
    images : (N, size, size, 3) uint8, on which ranges and means are measured.
    share : part of the channels of each expansion that become outliers, at least one channel.
    ratios : least and largest range of an outlier, over the median range; drawn log-uniformly.
    seed : of the draw.
    """
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.log(torch.tensor(ratios))
    for block, linear in _expansions(model, normalise(images, mean, std)).items():
        exact = F.hardswish(linear)
        widths = _ranges(exact)
        draw = torch.rand(len(widths), generator=generator)
        factor = (torch.exp(low + (high - low) * draw) * widths.median() / widths).clamp(min=1.0)
        shaped = factor.reshape(1, -1, 1, 1)
        change = F.hardswish(shaped * linear) / shaped - exact
        damage = change.var((0, 2, 3)) / exact.var((0, 2, 3))
        chosen = damage.argsort()[: max(1, round(share * len(widths)))]
        _rescale(block, chosen, factor[chosen], change.mean((0, 2, 3))[chosen])
    return model


@torch.no_grad()
def depthwise_input_ranges(
    model: EfficientViT, images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Tensor]:
    """Range (largest less smallest value, (C,) float32) of each channel of every MBConv's depthwise input, by name."""
    names = {module: name for name, module in model.named_modules()}
    linear = _expansions(model.eval(), normalise(images, mean, std))
    return {names[block]: _ranges(F.hardswish(values)) for block, values in linear.items()}


def _expansions(model: EfficientViT, x: Tensor) -> dict[MBConv, Tensor]:
    """Pre-activations (N, C, H, W) of the expansion of every MBConv, in order."""
    linear: dict[MBConv, Tensor] = {}
    hooks = [
        block.inverted_conv.act.register_forward_pre_hook(
            lambda _, inputs, block=block: linear.__setitem__(block, inputs[0])
        )
        for block in model.modules()
        if isinstance(block, MBConv)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return linear


def _ranges(values: Tensor) -> Tensor:
    return values.amax((0, 2, 3)) - values.amin((0, 2, 3))


def _rescale(block: MBConv, channels: Tensor, factor: Tensor, change: Tensor) -> None:
    """Scale channels between expansion and depthwise filters, and take the mean change of their values out."""
    expansion, depthwise = block.inverted_conv, block.depth_conv
    # A batch norm's scale and shift, or else the filters and their biases, make the outputs as large as they are.
    last = expansion.conv if expansion.norm is None else expansion.norm
    last.weight[channels] *= factor.reshape(-1, *(1,) * (last.weight.ndim - 1))
    last.bias[channels] *= factor
    shift = depthwise.conv.weight[channels].sum((1, 2, 3)) * change
    depthwise.conv.weight[channels] /= factor[:, None, None, None]
    if depthwise.norm is None:
        depthwise.conv.bias[channels] -= shift
    else:
        depthwise.norm.running_mean[channels] += shift
