"""Operations that networks of convolutions have, and those of linear attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quant import numerics
from quant.integer_network.checks import (
    CODE_RANGE,
    EPSILON_BITS,
    MULTIPLIER2_RANGE,
    SHIFT_RANGE,
    IntegerNetworkError,
    check_number,
    check_tensor,
    signed_range,
)
from quant.integer_network.requant import Requant
from quant.numerics import Operand

__all__ = [
    "AveragePool",
    "Conv",
    "Input",
    "LayerNorm",
    "LinearAttention",
    "Node",
    "Width",
    "check_unsigned",
    "largest_accumulator",
]


class Width(NamedTuple):
    """Of a tensor's codes."""

    bits: int
    signed: bool = False


def check_unsigned(name: str, width: Width) -> None:
    """Raise `IntegerNetworkError` for codes that the MAC array does not take."""
    if width.signed or width.bits > 8:
        kind = "signed" if width.signed else "unsigned"
        raise IntegerNetworkError(
            f"node '{name}' reads {kind} codes of {width.bits} bits; up to 8 unsigned are allowed"
        )


def largest_accumulator(weight: Tensor) -> int:
    """The largest magnitude of a sum of products of a filter of `weight` (O, ...) and unsigned codes of 8 bits.

    Raises `IntegerNetworkError` where int32, of which the golden model makes its sums, does not hold it.
    """
    filters = weight.long().flatten(1)
    sums = torch.maximum(filters.clamp(min=0).sum(1), -filters.clamp(max=0).sum(1))
    largest = int(sums.max()) * CODE_RANGE[1]
    if largest >= 1 << 31:
        raise IntegerNetworkError(f"accumulators reach {largest}, which takes more than 32 bits")
    return largest


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. `inputs` names the tensors it reads, in order; `name` names the tensor it makes."""

    name: str
    inputs: tuple[str, ...] = ()

    def run(self, *inputs: Tensor) -> Tensor:
        """Compute this node's codes from its inputs' codes."""
        raise NotImplementedError

    def width(self, sources: Sequence[Width]) -> Width:
        """Of the codes that it makes, given those of its inputs; IntegerNetworkError for what it cannot read."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Input(Node):
    """Image bytes (N, 3, H, W) to codes: the `bits` high bits of each byte."""

    channels: int = 3
    size: int = 224
    bits: int = 8

    def __post_init__(self) -> None:
        check_number("channels", self.channels, 1, 4)
        check_number("size", self.size, 1, 65535)
        check_number("bits", self.bits, 1, 8)

    def run(self, image: Tensor) -> Tensor:
        return image.int() >> (8 - self.bits)

    def width(self, sources: Sequence[Width]) -> Width:
        return Width(self.bits)


@dataclass(frozen=True, kw_only=True)
class Conv(Node):
    """Convolution with "same" padding by per-channel codes, requantized; linear layers are 1x1.

    weight: int8 (O, C/groups, k, k), symmetric and narrow; groups is 1, C (depthwise), or 1 < groups < C with k = 1.
    The second input, if any, is the residual operand (`requant.operand` is RESIDUAL).
    """

    weight: Tensor
    requant: Requant
    pad_value: Tensor  #: int64 (C,), the code of zero of each input channel; used where kernel > 1
    stride: int = 1
    groups: int = 1
    weight_bits: int = 8

    def __post_init__(self) -> None:
        check_number("weight_bits", self.weight_bits, 2, 8)
        check_number("stride", self.stride, 1, 2)
        outputs, per_group, kernel, _ = self.weight.shape
        check_number("groups", self.groups, 1, outputs)
        check_tensor(
            "weight", self.weight, (outputs, per_group, kernel, kernel), *numerics.weight_range(self.weight_bits)
        )
        check_tensor("pad_value", self.pad_value, (per_group * self.groups,), *CODE_RANGE)
        if outputs % self.groups or kernel % 2 == 0 or self.requant.channels != outputs:
            raise IntegerNetworkError(
                f"{outputs} filters of {kernel}x{kernel}, {self.groups} groups, and {self.requant.channels} requantized"
                " channels do not fit together"
            )
        if (self.requant.operand == Operand.RESIDUAL) != (len(self.inputs) == 2):
            raise IntegerNetworkError("a second input and a residual operand belong together")
        largest_accumulator(self.weight)

    @property
    def kernel(self) -> int:
        """Kernel width and height."""
        return self.weight.shape[-1]

    @property
    def is_depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups > 1 and self.weight.shape[1] == 1 and self.groups == self.weight.shape[0]

    def accumulate(self, x: Tensor) -> Tensor:
        """Exact int32 accumulators (N, O, Ho, Wo), without bias."""
        if self.is_depthwise:
            return numerics.depthwise(x, self.weight[:, 0], self.stride, self.pad_value)
        if self.kernel == 1:
            return numerics.pointwise(x, self.weight[:, :, 0, 0], self.groups)
        return numerics.dense(x, self.weight, self.stride, self.pad_value)

    def run(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.requant(self.accumulate(x), residual)

    def width(self, sources: Sequence[Width]) -> Width:
        check_unsigned(self.name, sources[0])
        return Width(self.requant.out_bits, self.requant.signed)


@dataclass(frozen=True, kw_only=True)
class LinearAttention(Node):
    """ReLU linear attention over one or more qkv tensors (EfficientViT's LiteMLA; Trio-ViT section on MSA).

    Each input is (N, 3*heads*d, H, W), channels of a head side by side [q(d) k(d) v(d)], with one zero-point.
    Per head: q, k = max(code - zero, 0), v = code - zero;
    state[k, v] = clamp(round_shift(sum_t k*v * state_multiplier, state_shift)), likewise the row sums of k (their code
    is never negative); numerators q.state and divisor q.sums are exact; the quotient is numerator times the normalised
    reciprocal of the divisor, then `requant` (operand STAGE) over the output channels.
    With a `divisor_multiplier`, the divisor is replaced by its 8-bit code, see `numerics.uniform_divisor`.
    Output: (N, len(inputs)*heads*d, H, W), heads of the first input first.
    """

    head_dim: int
    input_zero: tuple[int, ...]  #: one per input
    state_multiplier: Tensor  #: int64 (len(inputs)*heads,), below 2**16
    state_shift: Tensor
    sum_multiplier: Tensor
    sum_shift: Tensor
    requant: Requant
    state_bits: int = 8
    mantissa_bits: int = 8
    divisor_multiplier: Tensor | None = None  #: int64 (len(inputs)*heads,), below 2**16
    divisor_shift: Tensor | None = None

    def __post_init__(self) -> None:
        check_number("head_dim", self.head_dim, 1, 65535)
        check_number("state_bits", self.state_bits, 2, 8)
        check_number("mantissa_bits", self.mantissa_bits, 0, 10)
        heads = self.requant.channels // self.head_dim
        uniform = ("divisor",) if self.divisor_multiplier is not None else ()
        for name in (f"{kind}_multiplier" for kind in ("state", "sum", *uniform)):
            check_tensor(name, getattr(self, name), (heads,), *MULTIPLIER2_RANGE)
        for name in (f"{kind}_shift" for kind in ("state", "sum", *uniform)):
            check_tensor(name, getattr(self, name), (heads,), *SHIFT_RANGE)
        for zero in self.input_zero:
            check_number("input_zero", zero, *CODE_RANGE)
        if len(self.input_zero) != len(self.inputs) or self.requant.operand != Operand.STAGE:
            raise IntegerNetworkError("it needs one zero-point per input and the stage as operand")

    def run(self, *inputs: Tensor) -> Tensor:
        numerators, divisors = self.products(*inputs)
        r, e = (x.repeat_interleave(self.head_dim, 1) for x in self.reciprocal(divisors))
        return self.requant(numerators, reciprocal=(r, e))

    def width(self, sources: Sequence[Width]) -> Width:
        for source in sources:
            check_unsigned(self.name, source)
        return Width(self.requant.out_bits, self.requant.signed)

    def products(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Numerators (N, heads*d, H, W) int32 and divisors (N, heads, H, W) int64."""
        d, low_high = self.head_dim, numerics.weight_range(self.state_bits)
        numerators, divisors = [], []
        head = 0
        for x, zero in zip(inputs, self.input_zero, strict=True):
            n, c, h, w = x.shape
            centred = (x.int() - zero).reshape(n, c // (3 * d), 3, d, h * w)
            for i in range(c // (3 * d)):
                q, k, v = (
                    centred[:, i, 0].clamp(min=0),
                    centred[:, i, 1].clamp(min=0),
                    centred[:, i, 2],
                )
                raw = numerics.matmul(k, v.transpose(1, 2)).long()  # (N, d, d), state[k, v]
                state = numerics.round_shift(raw * self.state_multiplier[head], int(self.state_shift[head]))
                sums = numerics.round_shift(k.long().sum(-1) * self.sum_multiplier[head], int(self.sum_shift[head]))
                state, sums = state.clamp(*low_high), sums.clamp(*low_high)
                numerators.append(numerics.matmul(state.transpose(1, 2), q).reshape(n, d, h, w))
                divisors.append(numerics.matmul(sums.unsqueeze(1), q).reshape(n, 1, h, w))
                head += 1
        return torch.cat(numerators, 1), torch.cat(divisors, 1).long()

    def reciprocal(self, divisor: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised reciprocals (r, e) of the divisors (N, heads, H, W), or of their codes."""
        if self.divisor_multiplier is not None:
            per_head = (x.reshape(1, -1, 1, 1) for x in (self.divisor_multiplier, self.divisor_shift))
            divisor = numerics.uniform_divisor(divisor, *per_head)
        return numerics.reciprocal(divisor, self.mantissa_bits)


@dataclass(frozen=True, kw_only=True)
class AveragePool(Node):
    """Mean over all pixels: clamp(zero_point + round_shift((sum + bias) * multiplier, shift)), one scale."""

    bias: int
    multiplier: int
    shift: int
    zero_point: int
    out_bits: int = 8

    def __post_init__(self) -> None:
        check_number("bias", self.bias, *signed_range(numerics.BIAS_BITS))
        check_number("multiplier", self.multiplier, *MULTIPLIER2_RANGE)
        check_number("shift", self.shift, *SHIFT_RANGE)
        check_number("zero_point", self.zero_point, *CODE_RANGE)
        check_number("out_bits", self.out_bits, 2, 8)

    def run(self, x: Tensor) -> Tensor:
        total = x.long().sum((2, 3), keepdim=True) + self.bias
        y = numerics.round_shift(total * self.multiplier, self.shift) + self.zero_point
        return y.clamp(*numerics.code_range(self.out_bits)).int()

    def width(self, sources: Sequence[Width]) -> Width:
        check_unsigned(self.name, sources[0])
        return Width(self.out_bits)


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Node):
    """LayerNorm over the channels of every pixel; gain, bias and activation lie in `requant`.

    It reads unsigned codes of one zero-point, or a signed stream of up to 16 bits; of up to 4096 channels.
    """

    epsilon: int
    requant: Requant

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, 1, (1 << EPSILON_BITS) - 1)
        check_number("channels", self.requant.channels, 1, numerics.NORM_ELEMENTS)

    def run(self, x: Tensor) -> Tensor:
        return self.requant(numerics.normalise(x, self.epsilon, dim=1))

    def width(self, sources: Sequence[Width]) -> Width:
        return Width(self.requant.out_bits, self.requant.signed)
