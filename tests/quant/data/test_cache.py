"""The cache decodes once, writes whole files, and tells damage."""

import numpy as np
import pytest

from quant.data.cache import DataError, cached_split, check_sha256, save_array


def test_decodes_once(tmp_path):
    calls = []

    def decode():
        calls.append(1)
        return np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([4, 5], np.uint8)

    for _ in range(2):
        images, labels = cached_split(tmp_path / "set", "test", decode)
        assert images.tolist() == [[0, 1, 2], [3, 4, 5]] and labels.tolist() == [4, 5]
    assert len(calls) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_damage_is_told(tmp_path, content):
    for name in ("test-images.npy", "test-labels.npy"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="damaged.*delete it"):
        cached_split(tmp_path, "test", lambda: pytest.fail("decoded"))


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        save_array(tmp_path / "a.npy", np.array([object()]))
    assert list(tmp_path.iterdir()) == []


def test_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_sha256(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(DataError, match="file is not the expected file.*delete"):
        check_sha256(path, "0" * 64)
