"""Requantization as nodes of a network hold it."""

from dataclasses import dataclass, replace

from torch import Tensor

from quant import numerics
from quant.integer_network.checks import (
    CODE_RANGE,
    MULTIPLIER2_RANGE,
    SHIFT_RANGE,
    IntegerNetworkError,
    check_number,
    check_tensor,
    signed_range,
)
from quant.numerics import Operand

__all__ = ["Requant"]


@dataclass(frozen=True, kw_only=True)
class Requant:
    """Requantization of int accumulators to codes; per-channel tensors are int64 (C,). See `quant.numerics`."""

    bias: Tensor
    multiplier: Tensor
    shift: Tensor
    zero_point: Tensor
    multiplier2: Tensor
    operand: Operand = Operand.NONE
    shift2: int = 0
    table: Tensor | None = None  #: int64 (2**index_bits,), 16-bit signed entries; with Operand.TABLE
    index_zero: int = 0
    residual_zero: int = 0
    out_bits: int = 8
    signed: bool = False  #: class scores and residual streams are signed; other activations are not

    def __post_init__(self) -> None:
        ranges = {
            "bias": signed_range(numerics.BIAS_BITS),
            "multiplier": signed_range(numerics.MULTIPLIER_BITS),
            "shift": SHIFT_RANGE,
            "zero_point": CODE_RANGE,
            "multiplier2": MULTIPLIER2_RANGE,
        }
        for name, (low, high) in ranges.items():
            check_tensor(name, getattr(self, name), (self.channels,), low, high)
        check_number("shift2", self.shift2, 0, (1 << numerics.SHIFT2_BITS) - 1)
        check_number("index_zero", self.index_zero, *signed_range(numerics.INDEX_ZERO_BITS))
        check_number("residual_zero", self.residual_zero, *CODE_RANGE)
        check_number("out_bits", self.out_bits, 2, numerics.OPERAND_BITS)
        if self.operand == Operand.TABLE and self.table is None:
            raise IntegerNetworkError("a table operand needs a table")
        if self.table is not None:
            size = 1 << (self.table.numel() - 1).bit_length()
            check_tensor("table", self.table, (size,), *signed_range(numerics.OPERAND_BITS))

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.bias.numel()

    def part(self, channels: slice) -> "Requant":
        """The same of some of the channels."""
        columns = ("bias", "multiplier", "shift", "zero_point", "multiplier2")
        return replace(self, **{name: getattr(self, name)[channels] for name in columns})

    def __call__(
        self,
        acc: Tensor,
        residual: Tensor | None = None,
        reciprocal: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Requantize (N, C, H, W) accumulators. `reciprocal` (r, e), broadcastable, replaces the multiplier by r
        and adds e to the shift (quotients of the linear attention)."""

        def channels(x: Tensor) -> Tensor:
            return x.reshape(1, -1, 1, 1)

        multiplier, shift = channels(self.multiplier), channels(self.shift)
        if reciprocal is not None:
            multiplier, shift = reciprocal[0], shift + reciprocal[1]
        stage = numerics.first_stage(acc, channels(self.bias), multiplier, shift)
        y = numerics.second_stage(
            stage,
            self.operand,
            channels(self.multiplier2),
            self.shift2,
            table=self.table,
            index_zero=self.index_zero,
            residual=residual,
            residual_zero=self.residual_zero,
        )
        return y.add_(channels(self.zero_point)).clamp_(*numerics.code_range(self.out_bits, self.signed)).int()
