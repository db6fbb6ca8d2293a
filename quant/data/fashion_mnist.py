"""Fashion-MNIST: 70 000 grey images of clothes, 28x28 pixels, in 10 balanced classes.

Source: Debian's package ``dataset-fashion-mnist`` (pinned by its SHA-256), installed, or fetched
and unpacked without root. Licence: MIT, Zalando SE 2017.

The images are padded with black to 32x32 and get three equal channels.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from quant.data.cache import DEFAULT_CACHE, DataError, cached_split, check_sha256
from quant.data.dataset import ArrayDataset

__all__ = ["CLASS_NAMES", "MEAN", "STD", "load_fashion_mnist"]

CLASS_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Of the padded training images, pixels scaled to 0..1.
MEAN = (0.2190, 0.2190, 0.2190)
STD = (0.3318, 0.3318, 0.3318)

PACKAGE = "dataset-fashion-mnist"
PACKAGE_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
IMAGES = {"train": 60_000, "test": 10_000}


def load_fashion_mnist(
    split: str, size: int = 32, *, cache: Path = DEFAULT_CACHE, installed: Path = INSTALLED
) -> ArrayDataset:
    """Load Fashion-MNIST from the cache, filling it from the Debian package at the first call.

    Parameters
    ----------
    split : "train" (60 000 images) or "test" (10 000).
    size : pixels after up-sampling, 32 .. 512.
    cache : folder of the decoded arrays (72 MB), in its subfolder ``fashion-mnist``.
    installed : folder of the IDX files where the package is installed.

    Raises
    ------
    DataError : the package cannot be had, or its content is not Fashion-MNIST.
    """
    folder = cache / "fashion-mnist"
    images, labels = cached_split(folder, split, lambda: _decode(folder, installed, split))
    return ArrayDataset(
        name="fashion-mnist",
        native=np.broadcast_to(images[..., None], (*images.shape, 3)),
        size=size,
        labels=labels,
        class_names=CLASS_NAMES,
        mean=MEAN,
        std=STD,
    )


def _decode(folder: Path, installed: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode one split: images (N, 32, 32) uint8, labels (N,) uint8."""
    if all((installed / name).exists() for name in FILES[split]):
        images, labels = (_read_idx(installed / name) for name in FILES[split])
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            unpacked = _fetch(Path(temporary)) / INSTALLED.relative_to("/")
            images, labels = (_read_idx(unpacked / name) for name in FILES[split])
    count = IMAGES[split]
    if images.shape != (count, 28, 28) or np.bincount(labels, minlength=10).tolist() != [count // 10] * 10:
        raise DataError(
            f"Fashion-MNIST {split} has {count} balanced 28x28 images, found {images.shape} and "
            f"{np.bincount(labels).tolist()} per class; reinstall {PACKAGE}"
        )
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), labels


def _fetch(folder: Path) -> Path:
    """Download the package into ``folder`` and unpack it there; return the unpacked root."""
    remedy = f"install it with `apt-get install {PACKAGE}` on a Debian system"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError(f"Fashion-MNIST is a Debian package, and this system has no apt-get; {remedy}")
    fetched = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True)
    packages = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if fetched.returncode or not packages:
        raise DataError(f"apt-get cannot fetch {PACKAGE}: {fetched.stderr.strip()}; run `apt-get update`, or {remedy}")
    check_sha256(packages[0], PACKAGE_SHA256)
    root = folder / "root"
    subprocess.run(["dpkg-deb", "-x", packages[0], root], check=True)
    return root


def _read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed IDX file of bytes: a header of big-endian sizes, then the data."""
    try:
        data = gzip.decompress(path.read_bytes())
        zero, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        if zero or kind != 8:
            raise ValueError("not an IDX file of bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} is damaged ({error}); reinstall {PACKAGE}") from error
