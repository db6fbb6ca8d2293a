"""The integer-only network: a graph of integer operations with exact semantics, from image bytes to class scores.

Nodes are executed in order by `IntegerNetwork.run` on batches; every node calls `quant.numerics` and nothing else.
Tensors are named after the node that makes them, hold codes, and are (N, C, H, W).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant import numerics
from quant.numerics import Operand

__all__ = [
    "AveragePool",
    "Conv",
    "Input",
    "IntegerNetwork",
    "IntegerNetworkError",
    "LayerNorm",
    "LinearAttention",
    "Node",
    "Requant",
]

FORMAT = "vitsmith-integer-network"
FORMAT_VERSION = 1


class IntegerNetworkError(ValueError):
    """A malformed integer network or file; the message names the node and what to do."""


def _signed_range(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


CODE_RANGE = numerics.code_range(8)  #: of codes and zero-points of all activations
MULTIPLIER2_RANGE = (0, (1 << numerics.MULTIPLIER2_BITS) - 1)
SHIFT_RANGE = (0, (1 << numerics.SHIFT_BITS) - 1)
EPSILON_BITS = 40  #: of a LayerNorm


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise IntegerNetworkError(f"{name} = {value!r} is not an integer from {low} to {high}")


def _check_tensor(name: str, value: object, shape: tuple[int, ...], low: int, high: int) -> None:
    """A tensor of int64 (weights: int8) with this shape and values in this range."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int8) or value.shape != shape:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise IntegerNetworkError(f"{name} is {found}, not integers of shape {shape}")
    if value.numel() and not (low <= int(value.min()) and int(value.max()) <= high):
        raise IntegerNetworkError(
            f"{name} has values from {int(value.min())} to {int(value.max())}; {low} to {high} are allowed"
        )


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
    signed: bool = False  #: class scores are signed; activations are not

    def __post_init__(self) -> None:
        ranges = {
            "bias": _signed_range(numerics.BIAS_BITS),
            "multiplier": _signed_range(numerics.MULTIPLIER_BITS),
            "shift": SHIFT_RANGE,
            "zero_point": CODE_RANGE,
            "multiplier2": MULTIPLIER2_RANGE,
        }
        for name, (low, high) in ranges.items():
            _check_tensor(name, getattr(self, name), (self.channels,), low, high)
        _check_number("shift2", self.shift2, 0, (1 << numerics.SHIFT2_BITS) - 1)
        _check_number("index_zero", self.index_zero, *_signed_range(numerics.INDEX_ZERO_BITS))
        _check_number("residual_zero", self.residual_zero, *CODE_RANGE)
        _check_number("out_bits", self.out_bits, 2, numerics.OPERAND_BITS)
        if self.operand == Operand.TABLE and self.table is None:
            raise IntegerNetworkError("a table operand needs a table")
        if self.table is not None:
            size = 1 << (self.table.numel() - 1).bit_length()
            _check_tensor("table", self.table, (size,), *_signed_range(numerics.OPERAND_BITS))

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.bias.numel()

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


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. `inputs` names the tensors it reads, in order; `name` names the tensor it makes."""

    name: str
    inputs: tuple[str, ...] = ()

    def run(self, *inputs: Tensor) -> Tensor:
        """Compute this node's codes from its inputs' codes."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Input(Node):
    """Image bytes (N, 3, H, W) to codes: the `bits` high bits of each byte."""

    channels: int = 3
    size: int = 224
    bits: int = 8

    def __post_init__(self) -> None:
        _check_number("channels", self.channels, 1, 4)
        _check_number("size", self.size, 1, 65535)
        _check_number("bits", self.bits, 1, 8)

    def run(self, image: Tensor) -> Tensor:
        return image.int() >> (8 - self.bits)


@dataclass(frozen=True, kw_only=True)
class Conv(Node):
    """Convolution with "same" padding by per-channel codes, requantized; fully connected layers are 1x1 on 1x1 maps.

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
        _check_number("weight_bits", self.weight_bits, 2, 8)
        _check_number("stride", self.stride, 1, 2)
        outputs, per_group, kernel, _ = self.weight.shape
        _check_number("groups", self.groups, 1, outputs)
        _check_tensor(
            "weight", self.weight, (outputs, per_group, kernel, kernel), *numerics.weight_range(self.weight_bits)
        )
        _check_tensor("pad_value", self.pad_value, (per_group * self.groups,), *CODE_RANGE)
        if outputs % self.groups or kernel % 2 == 0 or self.requant.channels != outputs:
            raise IntegerNetworkError(
                f"{outputs} filters of {kernel}x{kernel}, {self.groups} groups, and {self.requant.channels} requantized"
                " channels do not fit together"
            )
        if (self.requant.operand == Operand.RESIDUAL) != (len(self.inputs) == 2):
            raise IntegerNetworkError("a second input and a residual operand belong together")

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
        _check_number("head_dim", self.head_dim, 1, 65535)
        _check_number("state_bits", self.state_bits, 2, 8)
        _check_number("mantissa_bits", self.mantissa_bits, 0, 10)
        heads = self.requant.channels // self.head_dim
        uniform = ("divisor",) if self.divisor_multiplier is not None else ()
        for name in (f"{kind}_multiplier" for kind in ("state", "sum", *uniform)):
            _check_tensor(name, getattr(self, name), (heads,), *MULTIPLIER2_RANGE)
        for name in (f"{kind}_shift" for kind in ("state", "sum", *uniform)):
            _check_tensor(name, getattr(self, name), (heads,), *SHIFT_RANGE)
        for zero in self.input_zero:
            _check_number("input_zero", zero, *CODE_RANGE)
        if len(self.input_zero) != len(self.inputs) or self.requant.operand != Operand.STAGE:
            raise IntegerNetworkError("it needs one zero-point per input and the stage as operand")

    def run(self, *inputs: Tensor) -> Tensor:
        numerators, divisors = self.products(*inputs)
        r, e = (x.repeat_interleave(self.head_dim, 1) for x in self.reciprocal(divisors))
        return self.requant(numerators, reciprocal=(r, e))

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
        _check_number("bias", self.bias, *_signed_range(numerics.BIAS_BITS))
        _check_number("multiplier", self.multiplier, *MULTIPLIER2_RANGE)
        _check_number("shift", self.shift, *SHIFT_RANGE)
        _check_number("zero_point", self.zero_point, *CODE_RANGE)
        _check_number("out_bits", self.out_bits, 2, 8)

    def run(self, x: Tensor) -> Tensor:
        total = x.long().sum((2, 3), keepdim=True) + self.bias
        y = numerics.round_shift(total * self.multiplier, self.shift) + self.zero_point
        return y.clamp(*numerics.code_range(self.out_bits)).int()


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Node):
    """LayerNorm over the channels of a (N, C, 1, 1) tensor; gain, bias and activation lie in `requant`."""

    epsilon: int
    requant: Requant

    def __post_init__(self) -> None:
        _check_number("epsilon", self.epsilon, 1, (1 << EPSILON_BITS) - 1)

    def run(self, x: Tensor) -> Tensor:
        normalised = numerics.normalise(x[:, :, 0, 0], self.epsilon)
        return self.requant(normalised[:, :, None, None])


@dataclass(frozen=True)
class IntegerNetwork:
    """Nodes in execution order; the first is the `Input`, the last makes the class scores (signed, 16 bits).

    `info` is free-form provenance (model, data set, calibration); nothing in it changes a result.
    """

    nodes: tuple[Node, ...]
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if not isinstance(node, Node):
                raise IntegerNetworkError(f"a {type(node).__name__} is not a node")
            for name in node.inputs:
                if name not in known:
                    raise IntegerNetworkError(f"node '{node.name}' reads '{name}', which no earlier node makes")
            if node.name in known:
                raise IntegerNetworkError(f"two nodes are called '{node.name}'; names must be unique")
            known.add(node.name)
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise IntegerNetworkError("the first node must be the Input")

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node is called '{name}'")

    @property
    def input(self) -> Input:
        """The input node."""
        return self.nodes[0]

    def run(self, images: Tensor, *, trace: bool = False) -> Tensor | dict[str, Tensor]:
        """Compute class scores (N, classes), int32, of uint8 images (N, H, W, 3).

        With `trace`, return every node's codes by name instead (int32, (N, C, H, W)).
        """
        size = self.input.size
        if images.dtype != torch.uint8 or images.shape[1:] != (size, size, self.input.channels):
            raise IntegerNetworkError(
                f"images must be uint8 (N, {size}, {size}, {self.input.channels}), "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        readers: dict[str, int] = {}
        for node in self.nodes:
            for name in node.inputs:
                readers[name] = readers.get(name, 0) + 1
        live = {self.nodes[0].name: self.nodes[0].run(images.permute(0, 3, 1, 2))}
        for node in self.nodes[1:]:
            live[node.name] = node.run(*(live[name] for name in node.inputs))
            for name in node.inputs:
                readers[name] -= 1
                if not readers[name] and not trace:
                    live.pop(name, None)
        return live if trace else live[self.nodes[-1].name][:, :, 0, 0]

    def save(self, path: Path) -> None:
        """Write one safetensors file: tensors by 'node/field', everything else as JSON in its metadata."""
        tensors: dict[str, Tensor] = {}
        records = [_encode(node, node.name, tensors) for node in self.nodes]
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "info": dict(self.info),
            "nodes": records,
        }
        # A file is either the old one or the new one, never half of it.
        temporary = Path(f"{path}.partial")
        save_file(tensors, temporary, metadata={"network": json.dumps(document, sort_keys=True)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "IntegerNetwork":
        """Read a file written by `save`. Raises `IntegerNetworkError` for anything else."""
        try:
            with safe_open(path, "pt") as file:
                document = json.loads((file.metadata() or {}).get("network", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise IntegerNetworkError(f"{path}: not a readable integer network ({error})") from error
        if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (
            FORMAT,
            FORMAT_VERSION,
        ):
            raise IntegerNetworkError(f"{path}: not an integer network of version {FORMAT_VERSION}; quantize again")
        name = "the list of nodes"
        try:
            nodes = []
            for record in document["nodes"]:
                name = record["name"]
                nodes.append(_decode(record, tensors))
            name = "the graph"
            return cls(tuple(nodes), document["info"])
        # A foreign document can be wrong in any way, and every wrong type surfaces as another error.
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise IntegerNetworkError(f"{path}: {name} is malformed ({error}); quantize again") from error


_KINDS = {kind.__name__: kind for kind in (Input, Conv, LinearAttention, AveragePool, LayerNorm, Requant)}


def _encode(value: Node | Requant, prefix: str, tensors: dict[str, Tensor]) -> dict[str, object]:
    record: dict[str, object] = {"kind": type(value).__name__}
    for f in fields(value):
        item = getattr(value, f.name)
        if isinstance(item, Tensor):
            key = f"{prefix}/{f.name}"
            tensors[key] = item.contiguous().clone()
            record[f.name] = {"tensor": key}
        elif isinstance(item, Requant):
            record[f.name] = _encode(item, f"{prefix}/{f.name}", tensors)
        else:
            record[f.name] = list(item) if isinstance(item, tuple) else item
    return record


def _decode(record: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Node | Requant:
    arguments: dict[str, object] = {}
    for name, item in record.items():
        if name == "kind":
            continue
        if isinstance(item, dict):
            item = tensors[item["tensor"]] if "tensor" in item else _decode(item, tensors)
        elif isinstance(item, list):
            item = tuple(item)
        arguments[name] = Operand(item) if name == "operand" else item
    return _KINDS[record["kind"]](**arguments)
