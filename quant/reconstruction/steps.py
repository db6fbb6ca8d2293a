"""Learned steps of activations (LSQ, Esser et al., ICLR 2020): gradients pass rounding as if it were not there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quant.scales import AffineFormat

__all__ = ["LearnedSteps", "pass_round"]


def pass_round(x: Tensor) -> Tensor:
    """Round; the gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()


class _Quantize(torch.autograd.Function):
    """scale * clip(round(x / scale), low, high).

    Gradients (LSQ, eq. (3) and (5)): to x, 1 within the range and 0 beyond; to scale, round(x / scale) - x / scale
    within the range, and the end of the range beyond it. Written out because maps are large and memory is slow.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ratio = x / scale
        codes = torch.minimum(torch.maximum(ratio, low), high)
        inside = codes == ratio
        codes.round_()
        slope = torch.where(inside, codes - ratio, codes)
        ctx.save_for_backward(inside, slope)
        ctx.shape = scale.shape
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors
        to_scale = slope.mul_(gradient).sum((0, 2, 3)).reshape(-1, 1, 1)
        return gradient * inside, to_scale.sum_to_size(ctx.shape), None, None


class LearnedSteps(nn.Module):
    """A tensor's values as the codes of a format can hold them; the scales are learned, in a fixed ratio or one by one.

    Parameters
    ----------
    form : the first scales, and the zero-points, which stay.
    independent : every channel learns its own scale; else all are multiplied by the same learned factor.
    """

    def __init__(self, form: AffineFormat, *, independent: bool) -> None:
        super().__init__()
        self._form = form
        self.register_buffer("scale", form.scale.float().reshape(-1, 1, 1))
        self.register_buffer("zero", form.zero.float().reshape(-1, 1, 1))
        self.log_factor = nn.Parameter(torch.zeros(len(form.scale) if independent else 1, 1, 1))

    def scales(self, channels: int) -> Tensor:
        """Of that many channels, (C,)."""
        return (self.scale * self.log_factor.exp()).flatten().expand(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> the same shape."""
        high = (1 << self._form.bits) - 1 - self.zero
        return _Quantize.apply(x, self.scale * self.log_factor.exp(), -self.zero, high)

    def centred(self, x: Tensor) -> Tensor:
        """Codes less their zero-points of values that `forward` returned."""
        return x / (self.scale * self.log_factor.exp())

    def format(self) -> AffineFormat:
        """The format with the learned scales."""
        factor = self.log_factor.detach().double().exp().flatten()
        return AffineFormat(self._form.scale * factor, self._form.zero, self._form.bits, self._form.signed)
