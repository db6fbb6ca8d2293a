"""Adaptive weight rounding: whether a weight is rounded up or down is learned (AdaRound, Nagel et al., ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AdaptiveRounding", "penalty", "penalty_exponent"]

#: the sigmoid is stretched to these ends, so that it reaches 0 and 1
ZETA, GAMMA = 1.1, -0.1
#: the exponent of the regulariser goes from loose to strict
FIRST_EXPONENT, LAST_EXPONENT = 20.0, 2.0


class AdaptiveRounding(nn.Module):
    """Codes floor(W / step) + h(alpha), h(alpha) = clip(sigmoid(alpha) * (zeta - gamma) + gamma, 0, 1); eq. (23).

    At first h is the fraction that rounding down leaves, so the codes are exactly W / step. `step` is that of the
    weight as it is quantized, with every rescaling of it already inside.

    Parameters
    ----------
    weight : float (O, ...).
    step : real value of one code, broadcastable to `weight`.
    levels : codes are -levels .. levels.
    """

    def __init__(self, weight: Tensor, step: Tensor, levels: int) -> None:
        super().__init__()
        codes = weight.double() / step.double()
        self._levels = levels
        self.register_buffer("step", step.float())
        self.register_buffer("floor", codes.floor().float())
        fraction = (codes - codes.floor()).clamp(1e-4, 1 - 1e-4)
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1.0).float())

    def forward(self) -> tuple[Tensor, Tensor]:
        """Real values of the soft codes, and the shares h(alpha), both like the weight."""
        share = (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)
        return (self.floor + share).clamp(-self._levels, self._levels) * self.step, share

    def hardened(self) -> Tensor:
        """The codes (int8): shares from one half up are a step up."""
        up = (self.alpha.detach() >= 0).float()
        return (self.floor + up).clamp(-self._levels, self._levels).to(torch.int8)


def penalty(share: Tensor, exponent: float) -> Tensor:
    """Sum of 1 - |2 h - 1|**exponent, eq. (24): 0 when every share h is 0 or 1."""
    return share.numel() - (2.0 * share - 1.0).abs().pow(exponent).sum()


def penalty_exponent(progress: float, warm_up: float) -> float | None:
    """Exponent of the penalty at `progress` 0..1 of the iterations: none during the warm-up, then 20 down to 2."""
    if progress < warm_up:
        return None
    return FIRST_EXPONENT + (LAST_EXPONENT - FIRST_EXPONENT) * (progress - warm_up) / (1.0 - warm_up)
