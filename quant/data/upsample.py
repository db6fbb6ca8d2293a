"""Exact bilinear up-sampling of small images.

Part of the definition of the up-sampled data sets, hence the same bytes on every machine. Output
pixel i lies at input coordinate ``(2i + 1) * n / (2 * size) - 1/2`` (pixel centres aligned, edges
repeated). The weights are integers over a common denominator, the weighted sum is rounded half up.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
import torch

__all__ = ["upsample"]


def upsample(images: np.ndarray, size: int) -> np.ndarray:
    """Up-sample square images.

    Parameters
    ----------
    images : (N, n, n, C) uint8.
    size : output height and width, ``n <= size <= 16 * n``.

    Returns
    -------
    (N, size, size, C) uint8; ``images`` itself for ``size == n``.

    Raises
    ------
    ValueError : ``size`` out of range.
    """
    n = images.shape[1]
    if size == n:
        return images
    if not n < size <= 16 * n:
        raise ValueError(f"cannot up-sample {n}x{n} images to {size}; choose {n} .. {16 * n}")
    weights, denominator = _weights(n, size)
    total = denominator * denominator
    # Every intermediate is an integer of at most 511 * total: exact below 2^24 and 2^53.
    dtype = torch.float32 if 511 * total < 2**24 else torch.float64
    matrix = torch.from_numpy(weights).to(dtype)
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(dtype)
    sums = matrix @ planes @ matrix.T  # (N, C, size, size)
    rounded = sums.mul_(2).add_(total).div_(2 * total).to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).numpy()


@lru_cache(maxsize=8)
def _weights(n: int, size: int) -> tuple[np.ndarray, int]:
    """Weights (size, n) int64 of one axis and their sum in each row, the denominator."""
    numerator = (2 * np.arange(size) + 1) * n - size
    denominator = 2 * size
    common = gcd(denominator, *(int(value) for value in numerator))
    numerator, denominator = numerator // common, denominator // common
    near, far_weight = np.divmod(numerator, denominator)
    rows = np.arange(size)
    weights = np.zeros((size, n), np.int64)
    np.add.at(weights, (rows, np.clip(near, 0, n - 1)), denominator - far_weight)
    np.add.at(weights, (rows, np.clip(near + 1, 0, n - 1)), far_weight)
    return weights, denominator
