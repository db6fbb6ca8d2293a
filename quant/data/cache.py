"""Files the data sets keep on disk: where they lie, and how they are written and checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["DEFAULT_CACHE", "DataError", "check_sha256", "save_array", "write_atomically"]

# Folder for downloads and decoded arrays; every loader takes another one as a parameter.
DEFAULT_CACHE = Path.home() / ".cache" / "vitsmith"


class DataError(Exception):
    """A data set is absent or damaged; the message says what to do."""


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file so that other processes see all of it or nothing.

    Parameters
    ----------
    path : the file to make or replace; its folder is made if absent.
    write : gets the open temporary file, which lies in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as ``.npy``, atomically."""
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


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
