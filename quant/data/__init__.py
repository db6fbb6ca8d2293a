"""Data sets by name or folder."""

from __future__ import annotations

from pathlib import Path

from quant.data.cache import DEFAULT_CACHE, DataError
from quant.data.cifar10 import load_cifar10, load_cifar10_folder
from quant.data.dataset import Dataset, normalise
from quant.data.fashion_mnist import load_fashion_mnist
from quant.data.image_folder import CROP_RATIO, ImageFolder
from quant.data.noise import NoiseDataset

__all__ = ["DataError", "Dataset", "load_dataset", "normalise"]


def load_dataset(
    name_or_path: str | Path,
    split: str,
    size: int,
    *,
    crop_ratio: float = CROP_RATIO,
    cache: Path = DEFAULT_CACHE,
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name_or_path : "cifar10", "fashion-mnist", "noise" (pictures of nothing), or the path of a
        ``cifar-10-batches-py`` folder or of an image folder with one sub-folder per class.
    split : "train" or "test".
    size : height and width of the images handed out.
    crop_ratio : of the pictures of an image folder; see `quant.data.image_folder`.
    cache : folder for downloads and decoded arrays.

    Raises
    ------
    DataError : the data set cannot be had; the message says what to do.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; choose 'train' or 'test'")
    if name_or_path == "cifar10":
        return load_cifar10(split, size, cache=cache)
    if name_or_path == "fashion-mnist":
        return load_fashion_mnist(split, size, cache=cache)
    if name_or_path == "noise":
        return NoiseDataset(split, size)
    folder = Path(name_or_path)
    if (folder / "test_batch").exists():
        return load_cifar10_folder(folder, split, size)
    if folder.is_dir():
        return ImageFolder(folder, split, size, crop_ratio)
    raise DataError(
        f"unknown data set {str(name_or_path)!r}; choose 'cifar10', 'fashion-mnist', 'noise' or the path of a folder "
        "with one sub-folder of pictures per class"
    )
