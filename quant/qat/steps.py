"""Quantizers whose steps and zero-points are learned.

References: Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. (1) to (3) and section 2.2; Bhalgat et al.,
"LSQ+", CVPR workshops 2020, eq. (2) to (4), for the zero-point; Q-ViT, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from quant import numerics
from quant.observers import Histogram, affine_range
from quant.scales import AffineFormat, quantize_weight

__all__ = ["MapQuantizer", "StreamQuantizer", "WeightQuantizer", "learned_step"]

#: power-of-two factors between the scales of channels reach from 1 to 2**-LARGEST_EXPONENT
LARGEST_EXPONENT = 3
#: a stream's codes reach so many times further than what was seen so far
STREAM_MARGIN = 1.25
LEAST_STEP = 1e-8
#: a step is 2 to the power of so many times what is learned
STEP_GAIN = 8.0


class _LearnedStep(torch.autograd.Function):
    """value = step * clamp(round(x / step), low, high), where codes less their zero-point go from low to high.

    Gradients, with inside = low <= x / step <= high::

        d value / d x    = 1 inside, else 0                               (straight through)
        d value / d step = round(x / step) - x / step inside, else low or high
        d value / d zero = 0 inside, else -step                           (zero moves both ends down)

    Those of step and zero are times `factor`. What is saved is x alone: maps are larger than caches, so to compute
    again is quicker than to fetch.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        step: Tensor,
        zero: Tensor,
        low: Tensor | float,
        high: Tensor | float,
        factor: float,
    ) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        return (x / step).clamp_(low, high).round_().mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, step = ctx.saved_tensors
        scaled = x / step
        clamped = scaled.clamp(ctx.low, ctx.high)
        # As numbers: products with truth values are eight times as slow.
        inside = torch.eq(scaled, clamped, out=torch.empty_like(scaled))
        of_x = inside.mul_(gradient)
        of_step = _sums(gradient, clamped.round_(), step) - _sums(of_x, scaled, step)
        of_zero = (of_x.sum_to_size(step.shape) - gradient.sum_to_size(step.shape)) * step
        return of_x, of_step * ctx.factor, of_zero * ctx.factor, None, None, None


def _sums(a: Tensor, b: Tensor, step: Tensor) -> Tensor:
    """Sums of products over all that share a step."""
    return (a * b).sum_to_size(step.shape)


def learned_step(x: Tensor, step: Tensor, zero: Tensor, low: Tensor | int, high: int, shares: int) -> Tensor:
    """Round `x` to what codes can stand for: step * (code - zero); see `_LearnedStep`.

    Gradients of step and zero are divided by the square root of the number of values that share them, times `high`.

    Parameters
    ----------
    step, zero : broadcastable to `x`, of equal shape; zero becomes a code here, straight through.
    low, high : smallest and largest code; low may be a tensor like step.
    shares : values that share a step.
    """
    code = zero.detach().round().clamp(max=high)
    code = code.clamp(min=low) if isinstance(low, int) else code.maximum(low)
    ends = (low - code, high - code)
    if step.numel() == 1 and step.device.type == "cpu":
        # Numbers are quicker to clamp to than tensors of one, but for a GPU, which would have to be waited for.
        ends = tuple(end.item() for end in ends)
    return _LearnedStep.apply(x, step, zero, *ends, (shares * high) ** -0.5)


class _Steps(nn.Module):
    """Steps whose logarithms are learned.

    The size of an update of Adam is the learning rate, whatever the gradient is: more than half of a step of 8-bit
    weights, and a hundredth of one of 2 bits. In logarithms it is the same share of every step, and no step crosses
    zero (Jain et al., "Trained Quantization Thresholds", MLSys 2020, section 4.3).

    Parameters
    ----------
    count : steps.
    least : smallest step; what has been learned below it counts as this.
    """

    def __init__(self, count: int, least: float = LEAST_STEP) -> None:
        super().__init__()
        self.least = least
        self.exponent_of_step = nn.Parameter(torch.zeros(count))

    @property
    def step(self) -> Tensor:
        """(count,)."""
        return torch.exp2(STEP_GAIN * self.exponent_of_step).clamp(min=self.least)

    @torch.no_grad()
    def set_step(self, step: Tensor) -> None:
        """Begin with steps (count,)."""
        self.exponent_of_step.copy_(step.clamp(min=self.least).log2() / STEP_GAIN)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        # Files of versions before had the steps themselves.
        if (old := state_dict.pop(f"{prefix}step", None)) is not None:
            state_dict[f"{prefix}exponent_of_step"] = old.clamp(min=self.least).log2() / STEP_GAIN
        super()._load_from_state_dict(state_dict, prefix, *others)


class WeightQuantizer(_Steps):
    """Signed, symmetric, and narrow weights with a learned step for each of `outputs` filters."""

    def __init__(self, outputs: int, bits: int) -> None:
        super().__init__(outputs)
        self.bits, self.levels = bits, numerics.weight_range(bits)[1]

    @torch.no_grad()
    def start(self, weight: Tensor, factor: Tensor) -> None:
        """Steps with the least squared error."""
        self.set_step(quantize_weight(weight * factor, self.bits)[1])

    def forward(self, weight: Tensor, factor: Tensor) -> Tensor:
        """Fake-quantized weights (O, C/groups, k, k); codes stand for weights times `factor`, which broadcasts."""
        step = self.step[:, None, None, None]
        factor_of_gradient = (weight.numel() / len(step) * self.levels) ** -0.5
        zero = torch.zeros_like(step)
        return _LearnedStep.apply(weight * factor, step, zero, -self.levels, self.levels, factor_of_gradient) / factor

    def codes(self, weight: Tensor, factor: Tensor) -> Tensor:
        """The integers behind them, int8."""
        step = self.step.detach()[:, None, None, None]
        return torch.round(weight.detach() * factor / step).clamp(-self.levels, self.levels).to(torch.int8)


class MapQuantizer(_Steps):
    """Unsigned codes of a map (N, C, ...), whose channels share steps and zero-points in groups.

    Parameters
    ----------
    bits : of a code.
    group : int64 (C,), the group of each channel.
    narrow : bool (groups,): the smallest code stays unused, as it does where codes less their middle are weights.
    offset : zero-points are learned; else they are 0.
    least : smallest step of a group.

    Members
    -------
    zero : (groups,), as step is.
    exponent : (C,) float; a channel's step is that of its group times 2**-exponent.
    """

    def __init__(
        self, bits: int, group: Tensor, narrow: Tensor, *, offset: bool = True, least: float = LEAST_STEP
    ) -> None:
        super().__init__(len(narrow), least)
        self.bits, self.high = bits, (1 << bits) - 1
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("low", narrow.float()[group], persistent=False)
        self.register_buffer("exponent", torch.zeros(len(group)))
        self.zero = nn.Parameter(torch.zeros(len(narrow)), requires_grad=offset)

    @property
    def grouped(self) -> bool:
        """Whether channels of a group differ."""
        return bool(self.exponent.any())

    @property
    def factor(self) -> Tensor:
        """(C,) steps of channels over that of their group."""
        return torch.exp2(-self.exponent)

    @property
    def middle(self) -> Tensor:
        """(C,) what the codes in the middle of the range stand for; without gradients."""
        step = self.step.detach()[self.group] * self.factor
        zero = self.zero.detach()[self.group].round().clamp(max=self.high).maximum(self.low)
        return ((1 << (self.bits - 1)) - zero) * step

    def forward(self, x: Tensor) -> Tensor:
        def channels(values: Tensor) -> Tensor:
            return values.reshape(1, -1, *(1,) * (x.ndim - 2))

        if len(self.zero) == 1 and not self.grouped:
            step, zero, low = self.step, self.zero, int(self.low[0])
        else:
            # The gradients of a group's channels are added up by the indexing.
            step, zero = channels(self.step[self.group] * self.factor), channels(self.zero[self.group])
            low = channels(self.low)
        return learned_step(x, step, zero, low, self.high, x.numel() // len(self.zero))

    @torch.no_grad()
    def start(self, values: Tensor, *, grouped: bool = False) -> None:
        """Steps and zero-points with the least squared error on a map; `grouped` finds exponents first."""
        by_channel = values.transpose(0, 1).flatten(1)
        if grouped:
            largest = by_channel.abs().amax(1).clamp(min=1e-12)
            self.exponent.copy_(torch.floor(torch.log2(largest.max() / largest)).clamp(max=LARGEST_EXPONENT))
        by_channel = by_channel / self.factor[:, None]
        steps = torch.empty_like(self.zero)
        for index in range(len(steps)):
            chosen = self.group == index
            unused = int(self.low[chosen][0])
            histogram = Histogram()
            histogram.update(by_channel[chosen].reshape(1, -1))
            low, high = affine_range(histogram, self.bits, "mse")
            step = (high - low).clamp(min=self.least) / (self.high - unused)
            steps[index] = step
            if self.zero.requires_grad:
                self.zero[index] = torch.round(-low / step) + unused
        self.set_step(steps)

    def form(self) -> AffineFormat:
        """Scales and zero-points, one per channel or of the whole map."""
        step = self.step.detach().double()
        zero = self.zero.detach()[self.group].round().clamp(max=self.high).maximum(self.low).long()
        if len(step) == 1 and not self.grouped:
            return AffineFormat(step.cpu(), zero[:1].cpu(), self.bits)
        return AffineFormat((step[self.group] * self.factor.double()).cpu(), zero.cpu(), self.bits)


class StreamQuantizer(nn.Module):
    """Signed codes of a residual stream in one scale, which covers what was seen in training.

    They are too fine to matter to gradients: in training, values pass as they are.

    Members
    -------
    largest : (), the largest absolute value so far.
    """

    def __init__(self, bits: int = 16) -> None:
        super().__init__()
        self.high = (1 << (bits - 1)) - 1
        self.register_buffer("largest", torch.tensor(0.0))

    @torch.no_grad()
    def start(self, values: Tensor) -> None:
        """Take in values."""
        low, high = values.aminmax()
        self.largest.copy_(torch.maximum(self.largest, torch.maximum(-low, high)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.start(x.detach())
            return x
        step = self.largest.clamp(min=LEAST_STEP) * (STREAM_MARGIN / self.high)
        return torch.round(x / step).clamp(-self.high, self.high) * step
