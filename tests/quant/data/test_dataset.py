"""Data sets hand out what is asked for, and no more."""

import numpy as np
import pytest
import torch

from quant.data import DataError, load_dataset, normalise
from quant.data.dataset import ArrayDataset


@pytest.fixture
def data():
    native = np.arange(10, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 32, 32, 3), np.uint8)
    return ArrayDataset(
        name="numbers",
        native=native,
        size=64,
        labels=np.arange(10, dtype=np.uint8),
        class_names=list("abcdefghij"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )


def test_slices_and_indices(data):
    assert len(data) == 10
    images, labels = data[2:5]
    assert images.shape == (3, 64, 64, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [2, 3, 4]
    images, labels = data[[7, 1]]
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [7, 1]


def test_batches_cover_the_set_in_order(data):
    batches = list(data.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(10))


def test_samples_are_drawn_by_seed(data):
    first, again, other = (data.sample(4, seed) for seed in (1, 1, 2))
    assert first.shape == (4, 64, 64, 3) and np.array_equal(first, again) and not np.array_equal(first, other)
    numbers = data.sample(99)[:, 0, 0, 0].tolist()
    assert numbers == list(range(10))


def test_fingerprints_tell_sets_apart(data):
    def of(**changes):
        values = {key: value for key, value in vars(data).items() if key != "fingerprint"} | changes
        return ArrayDataset(**values).fingerprint

    assert of() == data.fingerprint
    changed = (
        of(size=96), of(name="others"), of(labels=data.labels[::-1].copy()), of(native=data.native + 1)
    )  # fmt: skip
    assert len({data.fingerprint, *changed}) == 5


def test_normalise():
    images = np.zeros((2, 4, 5, 3), np.uint8)
    images[0, 1, 2] = (255, 51, 0)
    x = normalise(images, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert x.shape == (2, 3, 4, 5) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 1, 2], torch.tensor([0.9 / 0.4, 0.0, -0.3 / 0.6]))


def test_unknown_names_and_splits_are_told(tmp_path):
    with pytest.raises(DataError, match="'cifar11'.*cifar10.*fashion-mnist"):
        load_dataset("cifar11", "test", 32)
    with pytest.raises(ValueError, match="'val'.*'train' or 'test'"):
        load_dataset("cifar10", "val", 32)
