"""Fashion-MNIST from fabricated IDX files."""

import gzip
import shutil
import struct
import subprocess

import numpy as np
import pytest

from quant.data import DataError
from quant.data import fashion_mnist as module
from quant.data.fashion_mnist import load_fashion_mnist


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


def write_test_split(folder, images, labels):
    folder.mkdir(exist_ok=True)
    for name, array in zip(module.FILES["test"], (images, labels), strict=True):
        write_idx(folder / name, array.astype(np.uint8))


def test_installed_files_are_padded_and_get_three_channels(tmp_path):
    images = np.zeros((10_000, 28, 28), np.uint8)
    images[3, 0, 27] = 200
    write_test_split(tmp_path / "idx", images, np.arange(10_000) % 10)
    data = load_fashion_mnist("test", cache=tmp_path, installed=tmp_path / "idx")
    image, label = data[3:4]
    assert image.shape == (1, 32, 32, 3) and label.tolist() == [3]
    assert image[0, 2, 29].tolist() == [200, 200, 200] and int(image.sum(dtype=np.int64)) == 600
    # The second call needs the cache only.
    again = load_fashion_mnist("test", 64, cache=tmp_path, installed=tmp_path / "gone")
    assert again[:2][0].shape == (2, 64, 64, 3)


def test_other_images_are_refused(tmp_path):
    write_test_split(tmp_path / "idx", np.zeros((20, 28, 28)), np.arange(20) % 10)
    with pytest.raises(DataError, match="has 10000 balanced 28x28 images"):
        load_fashion_mnist("test", cache=tmp_path, installed=tmp_path / "idx")


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", gzip.compress(b"\0\0\x08", mtime=0), gzip.compress(bytes(40), mtime=0)],
    ids=["empty", "nonsense", "short", "zeros"],
)
def test_damaged_file_is_told(tmp_path, data):
    (tmp_path / "file.gz").write_bytes(data)
    with pytest.raises(DataError, match="file.gz is damaged.*reinstall"):
        module._read_idx(tmp_path / "file.gz")


def test_without_apt_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="no apt-get; install it with"):
        load_fashion_mnist("test", cache=tmp_path, installed=tmp_path)


def test_failing_apt_is_told(tmp_path, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 100, "", "unable to locate")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="unable to locate; run `apt-get update`"):
        load_fashion_mnist("test", cache=tmp_path, installed=tmp_path)
