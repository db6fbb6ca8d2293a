"""Operations of vision transformers: patches, tokens, softmax attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant import numerics
from quant.integer_network.checks import (
    CODE_RANGE,
    EPSILON_BITS,
    SHIFT_RANGE,
    IntegerNetworkError,
    check_number,
    check_tensor,
    signed_range,
)
from quant.integer_network.nodes import Node, Width, check_unsigned, largest_accumulator
from quant.integer_network.requant import Requant
from quant.numerics import Operand

__all__ = ["Merge", "PatchConv", "Rectify", "Select", "SoftmaxAttention", "Tokens"]

#: keys of an attention; with them, a sum of terms is below 2**30, and one of codes times values below 2**29
MOST_KEYS = 1 << 14
LARGEST_BIAS = (1 << (numerics.BIAS_BITS - 1)) - 1
MULTIPLIER_RANGE = (0, (1 << (numerics.MULTIPLIER_BITS - 2)) - 1)


@dataclass(frozen=True, kw_only=True)
class PatchConv(Node):
    """Convolution of squares of pixels that do not overlap, requantized: the patch embedding. No padding.

    weight: int8 (O, C, k, k), symmetric and narrow; height and width of the map are multiples of k, the stride.
    """

    weight: Tensor
    requant: Requant
    weight_bits: int = 8

    def __post_init__(self) -> None:
        check_number("weight_bits", self.weight_bits, 2, 8)
        outputs, channels, kernel, _ = self.weight.shape
        shape, levels = (outputs, channels, kernel, kernel), numerics.weight_range(self.weight_bits)
        check_tensor("weight", self.weight, shape, *levels)
        if self.requant.channels != outputs or self.requant.operand == Operand.RESIDUAL:
            raise IntegerNetworkError(f"{outputs} filters need as many requantized channels, and no residual operand")
        largest_accumulator(self.weight)

    @property
    def kernel(self) -> int:
        """Height and width of a patch."""
        return self.weight.shape[-1]

    def accumulate(self, x: Tensor) -> Tensor:
        """Exact int32 accumulators (N, O, H/k, W/k), without bias."""
        return numerics.pointwise(numerics.patches(x, self.kernel), self.weight.flatten(1))

    def run(self, x: Tensor) -> Tensor:
        return self.requant(self.accumulate(x))

    def width(self, sources: Sequence[Width]) -> Width:
        check_unsigned(self.name, sources[0])
        return Width(self.requant.out_bits, self.requant.signed)


@dataclass(frozen=True, kw_only=True)
class Tokens(Node):
    """Patches (N, C, H, W) become tokens (N, C, 1, K + H*W): K fixed ones, then saturate(patch + position) in raster
    order, all in the scale of the patches, which are signed."""

    tokens: Tensor  #: int64 (C, K), with their positions
    positions: Tensor  #: int64 (C, H*W)
    bits: int = numerics.STREAM_BITS

    def __post_init__(self) -> None:
        check_number("bits", self.bits, 2, numerics.STREAM_BITS)
        channels = len(self.tokens)
        for name, table in (("tokens", self.tokens), ("positions", self.positions)):
            check_tensor(name, table, (channels, table.shape[1]), *signed_range(self.bits))
        if not self.tokens.numel() or not self.positions.numel():
            raise IntegerNetworkError("it needs tokens and positions")

    def run(self, x: Tensor) -> Tensor:
        patches = numerics.saturate(x.long().flatten(2) + self.positions, self.bits)
        return torch.cat((self.tokens.expand(len(x), -1, -1), patches), 2)[:, :, None].int()

    def width(self, sources: Sequence[Width]) -> Width:
        if sources[0] != (self.bits, True):
            raise IntegerNetworkError(f"node '{self.name}' needs signed codes of {self.bits} bits")
        return sources[0]


@dataclass(frozen=True, kw_only=True)
class Merge(Node):
    """2 x 2 pixels become one of four times the channels, see `numerics.merge`; codes stay as they are."""

    def run(self, x: Tensor) -> Tensor:
        return numerics.merge(x)

    def width(self, sources: Sequence[Width]) -> Width:
        return sources[0]


@dataclass(frozen=True, kw_only=True)
class Select(Node):
    """The channels of chosen tokens, one after another: (N, C, 1, T) to (N, K*C, 1, 1); codes stay as they are."""

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        for token in self.tokens:
            check_number("token", token, 0, MOST_KEYS)
        if not self.tokens:
            raise IntegerNetworkError("it needs at least one token")

    def run(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :, token : token + 1] for token in self.tokens], 1)

    def width(self, sources: Sequence[Width]) -> Width:
        return sources[0]


@dataclass(frozen=True, kw_only=True)
class Rectify(Node):
    """Normalises each head of q and k (information rectification, Q-ViT eq. (20)) in a qkv map (N, 3*C, H, W); v only
    gets other codes. Laid out as `SoftmaxAttention` reads it.

    q, k: `requant` of `numerics.normalise` over the d channels of a head; v: `requant` of the codes.
    """

    heads: int
    epsilon: int
    requant: Requant
    centred: bool = True  #: else the root mean square takes the place of the standard deviation

    def __post_init__(self) -> None:
        check_number("heads", self.heads, 1, 65535)
        check_number("epsilon", self.epsilon, 1, (1 << EPSILON_BITS) - 1)
        elements, rest = divmod(self.requant.channels, 3 * self.heads)
        if rest or elements > numerics.NORM_ELEMENTS:
            raise IntegerNetworkError(f"{self.requant.channels} channels are not q, k, and v of {self.heads} heads")
        if not isinstance(self.centred, bool):
            raise IntegerNetworkError(f"centred = {self.centred!r} is neither true nor false")

    def run(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        normed = channels // 3 * 2
        heads = x[:, :normed].reshape(n, 2 * self.heads, -1, h, w)
        unit = numerics.normalise(heads, self.epsilon, dim=2, centred=self.centred).reshape(n, normed, h, w)
        return self.requant(torch.cat((unit, x[:, normed:].long()), 1))

    def width(self, sources: Sequence[Width]) -> Width:
        if not sources[0].signed:
            raise IntegerNetworkError(f"node '{self.name}' needs signed codes")
        return Width(self.requant.out_bits, self.requant.signed)


@dataclass(frozen=True, kw_only=True)
class SoftmaxAttention(Node):
    """Softmax attention among all pixels, or those of each window: (N, 3*C, H, W), q, k, v, each heads x d, to
    (N, C, H, W).

    q is code - query_zero; k and v are `narrow(code)`: the codes less their middle, as the weights of a MAC array are.
    score = sum_d q*k + bias; terms and reciprocal of `numerics.softmax` over the keys; the code of a probability is
    `probability` (operand STAGE) of a term; output = `requant` of sum_keys code * v.
    What zero-points of k would add to the scores is the same for all keys, so there are none; what zero-points of v
    would add to the output is a constant, because probabilities add up to 1: it lies in `requant`.
    """

    heads: int
    query_zero: Tensor  #: int64 (C,)
    exponent_multiplier: Tensor  #: int64 (heads,)
    exponent_shift: Tensor  #: int64 (heads,)
    probability: Requant  #: of heads
    requant: Requant  #: of channels
    bits: int = 8  #: of the codes of q, k, and v
    index_bits: int = numerics.EXP_INDEX_BITS
    mantissa_bits: int = 8
    window: int | None = None  #: pixels in a row of a window
    window_shift: int = 0  #: pixels; others than neighbours do not see each other
    bias: Tensor | None = None  #: int64 (heads, T, T), rows are queries

    def __post_init__(self) -> None:
        check_number("heads", self.heads, 1, 65535)
        check_number("bits", self.bits, 2, 8)
        check_number("index_bits", self.index_bits, 0, 10)
        check_number("mantissa_bits", self.mantissa_bits, 0, 10)
        check_tensor("query_zero", self.query_zero, (self.requant.channels,), *CODE_RANGE)
        check_tensor("exponent_multiplier", self.exponent_multiplier, (self.heads,), *MULTIPLIER_RANGE)
        check_tensor("exponent_shift", self.exponent_shift, (self.heads,), *SHIFT_RANGE)
        if self.requant.channels % self.heads or self.probability.channels != self.heads:
            raise IntegerNetworkError(f"{self.requant.channels} channels and {self.heads} heads do not fit together")
        plain = not self.probability.signed and self.probability.out_bits <= 8
        if self.probability.operand != Operand.STAGE or bool(self.probability.bias.any()) or not plain:
            raise IntegerNetworkError("probabilities are unsigned codes of 8 bits at most, of quotients without a bias")
        self._check_window()
        if (score := self.largest_score) >= 1 << 30:
            raise IntegerNetworkError(f"scores reach {score}, which takes more than 31 bits")

    def _check_window(self) -> None:
        if self.window is None:
            check_number("window_shift", self.window_shift, 0, 0)
        else:
            check_number("window", self.window, 1, 128)
            check_number("window_shift", self.window_shift, 0, self.window - 1)
        if self.bias is not None:
            tokens = self.bias.shape[-1] if self.window is None else self.window**2
            check_tensor("bias", self.bias, (self.heads, tokens, tokens), -LARGEST_BIAS, LARGEST_BIAS)

    @property
    def largest_score(self) -> int:
        """No score is beyond it: d products of an unsigned code's distance from its zero-point, and a narrow key."""
        codes = numerics.code_range(self.bits)[1]
        reach = torch.maximum(self.query_zero, codes - self.query_zero).reshape(self.heads, -1).sum(1).max()
        bias = 0 if self.bias is None else int(self.bias.abs().max())
        return int(reach) * numerics.weight_range(self.bits)[1] + bias

    def run(self, x: Tensor) -> Tensor:
        return self.requant(self.accumulate(x))

    def accumulate(self, x: Tensor) -> Tensor:
        """Exact int32 sums of values times probabilities (N, C, H, W), without bias."""
        _, _, h, w = x.shape
        scores, v = self.scores(x)
        sums = numerics.matmul(self.probabilities(scores, h, w), v.transpose(-1, -2))  # (N, windows, heads, T, d)
        return self._map(sums.transpose(-1, -2).flatten(2, 3), h, w)

    def narrow(self, codes: Tensor) -> Tensor:
        """Codes of k or v less their middle; the one code that would have no negative is clamped."""
        return (codes.int() - (1 << (self.bits - 1))).clamp(min=numerics.weight_range(self.bits)[0])

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, windows, heads, T, T) int32, masked ones too, and values (N, windows, heads, d, T)."""
        tokens = self._tokens(x.int())
        n, windows, channels, count = tokens.shape
        if count > MOST_KEYS:
            raise IntegerNetworkError(f"node '{self.name}' has {count} keys; {MOST_KEYS} are the most")
        q, k, v = tokens.reshape(n, windows, 3, self.heads, channels // 3 // self.heads, count).unbind(2)
        q = q - self.query_zero.int().reshape(self.heads, -1, 1)
        scores = numerics.matmul(q.transpose(-1, -2), self.narrow(k))
        return scores if self.bias is None else scores + self.bias.int(), self.narrow(v)

    def probabilities(self, scores: Tensor, h: int, w: int) -> Tensor:
        """Codes of the probabilities, like the scores, int32."""
        multiplier, shift = (x.reshape(-1, 1, 1) for x in (self.exponent_multiplier, self.exponent_shift))
        masked = None
        if self.window_shift:
            masked = numerics.window_mask(h, w, self.window, self.window_shift, scores.device)[:, None]
        terms, reciprocal = numerics.softmax(
            scores, multiplier, shift, index_bits=self.index_bits, mantissa_bits=self.mantissa_bits, masked=masked
        )
        r, e = (x.flatten(0, 1) for x in reciprocal)
        return self.probability(terms.flatten(0, 1), reciprocal=(r, e)).reshape(scores.shape)

    def _tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, windows, C, T)."""
        if self.window is None:
            return x.flatten(2)[:, None]
        return numerics.split_windows(x, self.window, self.window_shift)

    def _map(self, tokens: Tensor, h: int, w: int) -> Tensor:
        """Undo `_tokens`."""
        if self.window is None:
            return tokens.reshape(len(tokens), -1, h, w)
        return numerics.join_windows(tokens, self.window, self.window_shift, h, w)

    def width(self, sources: Sequence[Width]) -> Width:
        if sources[0] != (self.bits, False):
            raise IntegerNetworkError(f"node '{self.name}' needs unsigned codes of {self.bits} bits")
        return Width(self.requant.out_bits, self.requant.signed)
