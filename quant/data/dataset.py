"""The form in which every data set hands out its images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch

from quant.data.upsample import upsample

__all__ = ["ArrayDataset", "Dataset", "normalise"]


class Dataset(ABC):
    """Labelled square RGB images, made on demand.

    ``data[i:j]`` or ``data[indices]`` gives ``(images, labels)``: images (n, size, size, 3) uint8
    in R, G, B order, labels (n,) int64. Nothing but the asked-for images is made.

    Members
    -------
    name : the data set, e.g. "cifar10".
    size : height and width in pixels.
    labels : (N,) int64, each 0 .. len(class_names) - 1.
    class_names : one name per class.
    mean, std : per-channel normalisation constants for pixels scaled to 0..1.
    """

    def __init__(
        self,
        *,
        name: str,
        size: int,
        labels: np.ndarray,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.name = name
        self.size = size
        self.labels = labels.astype(np.int64)
        self.class_names = tuple(class_names)
        self.mean = tuple(mean)
        self.std = tuple(std)

    @abstractmethod
    def _images(self, indices: np.ndarray) -> np.ndarray:
        """Make the images of these indices, (n, size, size, 3) uint8."""

    @abstractmethod
    def _content(self) -> bytes:
        """What tells this set's images from those of other sets of the same name, size and labels."""

    @cached_property
    def fingerprint(self) -> str:
        """Digest that changes with the images or their labels."""
        digest = hashlib.sha256(repr((self.name, self.size, self.class_names)).encode())
        digest.update(self.labels.tobytes())
        digest.update(self._content())
        return digest.hexdigest()

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Images of `count` indices (all, if there are fewer) drawn without replacement: (n, size, size, 3) uint8."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self._images(np.sort(order[:count]))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> tuple:
        indices = np.arange(len(self))[index]
        return self._images(indices), self.labels[indices]

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go through the set in order, ``batch_size`` images at a time (the last may be fewer)."""
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]


class ArrayDataset(Dataset):
    """Data set whose images lie in one small array and are up-sampled on demand.

    Members
    -------
    native : (N, n, n, 3) uint8, the images before up-sampling.
    """

    def __init__(self, *, native: np.ndarray, **common: object) -> None:
        super().__init__(**common)
        self.native = native

    def _images(self, indices: np.ndarray) -> np.ndarray:
        return upsample(self.native[indices], self.size)

    def _content(self) -> bytes:
        return self.native.tobytes()


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn images into the network's float input.

    Parameters
    ----------
    images : (B, H, W, 3) uint8.
    mean, std : per-channel constants for pixels scaled to 0..1.

    Returns
    -------
    (B, 3, H, W) float32 ``(images / 255 - mean) / std``, in channels-last memory order.
    """
    scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32))
    offset = torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    return pixels.mul_(scale).sub_(offset).permute(0, 3, 1, 2)
