"""What the mantissa bits of the attention's divisors are worth: errors of quotients, and of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant import numerics
from quant.integer_network import IntegerNetwork, LinearAttention

__all__ = ["DivisorRow", "divisor_table", "quotient_errors", "with_mantissa_bits"]

#: images at a time
BATCH = 16


@dataclass(frozen=True)
class DivisorRow:
    """One width of the mantissa, on the same images.

    Parameters
    ----------
    mantissa_bits : 0 is a power of two, rounded at 1.5 (Trio-ViT).
    worst_error, rms_error : of the quotients, relative to exact division by the same integer divisors.
    agreement : share of the images for which the float network names the same class.
    top1 : share of the images for which the class is that of the label.
    """

    mantissa_bits: int
    worst_error: float
    rms_error: float
    agreement: float
    top1: float


def divisor_table(
    network: IntegerNetwork, images: Tensor, labels: Tensor, float_classes: Tensor, widths: Sequence[int] = range(9)
) -> Iterator[DivisorRow]:
    """Rows for mantissas of these widths.

    Parameters
    ----------
    images : (N, size, size, 3) uint8.
    labels, float_classes : (N,) int64, the true class, and the one that the float network names.
    """
    divisors = _divisors(network, images[:BATCH])
    for bits in widths:
        run = with_mantissa_bits(network, bits).run
        classes = torch.cat([run(batch).argmax(1) for batch in images.split(BATCH)])
        error = quotient_errors(divisors, bits)
        yield DivisorRow(
            mantissa_bits=bits,
            worst_error=float(error.abs().max()),
            rms_error=float(error.square().mean().sqrt()),
            agreement=float((classes == float_classes).double().mean()),
            top1=float((classes == labels).double().mean()),
        )


def with_mantissa_bits(network: IntegerNetwork, bits: int) -> IntegerNetwork:
    """The same network with another reciprocal table."""
    nodes = (replace(node, mantissa_bits=bits) if isinstance(node, LinearAttention) else node for node in network.nodes)
    return IntegerNetwork(tuple(nodes), network.info)


def quotient_errors(divisors: Tensor, mantissa_bits: int) -> Tensor:
    """Relative error (float64) of a quotient by each of these integer divisors, which must not be 0."""
    r, e = numerics.reciprocal(divisors, mantissa_bits)
    return torch.ldexp(r.double() * divisors, -numerics.RECIPROCAL_BITS - e) - 1.0


def _divisors(network: IntegerNetwork, images: Tensor) -> Tensor:
    """All divisors that the images lead to, but for zeros."""
    trace = network.run(images, trace=True)
    found = [
        node.products(*(trace[name] for name in node.inputs))[1].flatten()
        for node in network.nodes
        if isinstance(node, LinearAttention)
    ]
    divisors = torch.cat(found)
    return divisors[divisors > 0]
