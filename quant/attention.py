"""Ranges of the linear attention's states and row sums."""

from __future__ import annotations

import torch
from torch import Tensor

from quant import numerics

__all__ = ["divisor_steps", "state_units"]

#: parts of the largest state, or row sum, that the largest code is tried to stand for
SHRINKS = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32)


def state_units(
    centred: Tensor, head_dim: int, value_scale: Tensor, *, bits: int, observer: str, groups: int
) -> tuple[Tensor, Tensor]:
    """Integers of K^T V, and of the row sums of K, that one code stands for; (heads,) float64 each.

    With the observer "mse" they are chosen for the least error of the quotients. The least error of the states
    themselves would be wrong: quotients do not depend on how large the states of an image are, so images with small
    states count as much as others.

    Parameters
    ----------
    centred : (N, 3 * heads * d, H, W), codes of [q k v] heads less their zero-points.
    value_scale : (heads * d,) real value of one unit of v.
    groups : the heads are so many groups, side by side; the heads of a group share their units.
    """
    q, k, v = _heads(centred, head_dim)
    state, sums = k @ v.transpose(-1, -2), k.sum(-1, keepdim=True)  # (N, heads, d, d) and (N, heads, d, 1)
    levels = numerics.weight_range(bits)[1]
    units = [_shared(x.abs().amax((0, 2, 3)), groups).clamp(min=1.0) / levels for x in (state, sums)]
    if observer != "mse":
        return units[0].double(), units[1].double()

    weight = value_scale.float().reshape(-1, head_dim, 1)
    exact = _quotient(_product(state, q), _product(sums, q))
    numerators, divisors = (
        [_product(_coded(x, shrink * unit, levels), q) for shrink in SHRINKS] for x, unit in zip((state, sums), units)
    )
    errors = torch.stack(
        [
            ((_quotient(numerator, divisor) - exact) * weight).square().sum((0, 2, 3))
            for numerator in numerators
            for divisor in divisors
        ]
    )  # (pairs of shrinks, heads)
    of_groups = errors.reshape(len(errors), groups, -1)
    best = of_groups.sum(2).argmin(0).repeat_interleave(of_groups.shape[2])
    shrinks = torch.tensor(SHRINKS, dtype=torch.float64)
    return units[0] * shrinks[best // len(SHRINKS)], units[1] * shrinks[best % len(SHRINKS)]


def divisor_steps(centred: Tensor, head_dim: int, sum_unit: Tensor, *, bits: int, groups: int) -> Tensor:
    """Integers of the divisor q.sums that one of its 8-bit codes stands for; (heads,) float64. See `state_units`."""
    q, k, _ = _heads(centred, head_dim)
    sums = torch.round(k.sum(-1, keepdim=True) / sum_unit.float().reshape(-1, 1, 1))
    divisors = _product(sums.clamp(max=numerics.weight_range(bits)[1]), q)
    largest = _shared(divisors.amax((0, 2, 3)), groups).clamp(min=1.0)
    return largest.double() / numerics.code_range(numerics.DIVISOR_BITS)[1]


def _heads(centred: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """relu(q), relu(k), and v, each (N, heads, d, pixels) float32."""
    q, k, v = centred.reshape(len(centred), -1, 3, head_dim, centred[0, 0].numel()).float().unbind(2)
    return q.relu(), k.relu(), v


def _shared(largest: Tensor, groups: int) -> Tensor:
    """The largest of each group of heads, for every head (heads,)."""
    of_groups = largest.reshape(groups, -1)
    return of_groups.amax(1, keepdim=True).expand_as(of_groups).flatten()


def _coded(x: Tensor, unit: Tensor, levels: int) -> Tensor:
    unit = unit[:, None, None]
    return torch.round(x / unit).clamp_(-levels, levels) * unit


def _product(state: Tensor, q: Tensor) -> Tensor:
    return state.transpose(-1, -2) @ q


def _quotient(numerator: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(divisor > 0, numerator / divisor.clamp(min=1e-9), 0.0)
