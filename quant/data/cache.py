"""Files the data sets keep on disk: where they lie, and how they are written and checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["DEFAULT_CACHE", "DataError", "cached_split", "check_sha256", "save_array"]

# Folder for downloads and decoded arrays; every loader takes another one as a parameter.
DEFAULT_CACHE = Path.home() / ".cache" / "vitsmith"


class DataError(Exception):
    """A data set is absent or damaged; the message says what to do."""


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as ``.npy`` so that other processes see all of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cached_split(
    folder: Path, split: str, decode: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of a split, decoding them only at the first call.

    Parameters
    ----------
    folder : cache folder of the data set.
    split : part of the file names.
    decode : makes images and labels, both uint8.

    Returns
    -------
    Images, mapped from the file rather than read, and labels.

    Raises
    ------
    DataError : a cached file is damaged.
    """
    images_file, labels_file = folder / f"{split}-images.npy", folder / f"{split}-labels.npy"
    if not (images_file.exists() and labels_file.exists()):
        images, labels = decode()
        save_array(images_file, images)
        save_array(labels_file, labels)
    try:
        images = np.load(images_file, mmap_mode="r", allow_pickle=False)
        return images, np.load(labels_file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder} is damaged ({error}); delete it and load again") from error


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file's SHA-256 with the pinned one.

    Raises
    ------
    DataError : they differ; the message names the file and both sums.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not the expected file (SHA-256 {found}, expected {expected}); "
            "delete it and load the data set again"
        )
