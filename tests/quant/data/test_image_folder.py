"""Image folders: layout, order and preprocessing."""

import numpy as np
import pytest
from PIL import Image

from quant.data import DataError, load_dataset
from quant.data.image_folder import preprocess


def save(path, colour, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    save(root / "val" / "n02" / "b.png", (0, 255, 0))
    save(root / "val" / "n02" / "a.JPEG", (0, 0, 255), (90, 30))
    save(root / "val" / "n01" / "c.png", (255, 0, 0))
    save(root / "train" / "n01" / "d.png", (9, 9, 9))
    (root / "val" / "n01" / "notes.txt").write_text("no picture")
    return root


def test_classes_and_pictures_are_in_order(folder):
    data = load_dataset(folder, "test", 32)
    assert data.name == "pictures" and data.class_names == ("n01", "n02")
    assert data.labels.tolist() == [0, 1, 1]
    assert [path.name for path in data.files] == ["c.png", "a.JPEG", "b.png"]
    images, labels = data[0:3]
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8
    assert images[0, 16, 16].tolist() == [255, 0, 0] and images[2, 16, 16].tolist() == [0, 255, 0]
    assert len(load_dataset(folder, "train", 32)) == 1


def test_classes_take_turns(folder):
    save(folder / "val" / "n01" / "e.png", (1, 1, 1))
    save(folder / "val" / "n01" / "f.png", (1, 1, 1))
    data = load_dataset(folder, "test", 32)
    assert [path.name for path in data.files] == ["c.png", "a.JPEG", "e.png", "b.png", "f.png"]
    assert data.labels.tolist() == [0, 1, 0, 1, 0]


def test_class_folders_without_splits(folder):
    assert len(load_dataset(folder / "val", "test", 32)) == 3
    assert len(load_dataset(folder / "val", "train", 32)) == 3


def test_preprocessing_resizes_the_shorter_side_and_crops_the_centre():
    # 224 is cut out of a shorter side of 236: at that size nothing is resized.
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (236, 300, 3), dtype=np.uint8))
    assert np.array_equal(preprocess(picture, 224), np.asarray(picture)[6:230, 38:262])
    tall = picture.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(preprocess(tall, 224), np.asarray(tall)[38:262, 6:230])
    half = picture.resize((150, 118))
    resized = half.resize((300, 236), Image.Resampling.BICUBIC)
    assert np.array_equal(preprocess(half, 224), np.asarray(resized)[6:230, 38:262])


def test_crop_ratio():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    assert np.array_equal(preprocess(picture, 64, 1.0), np.asarray(picture)[:, 8:72])
    assert np.array_equal(preprocess(picture, 56, 0.875), np.asarray(picture)[4:60, 12:68])


def test_fingerprint_changes_with_files_and_crops(folder):
    before = load_dataset(folder, "test", 32).fingerprint
    assert load_dataset(folder, "test", 32).fingerprint == before
    assert load_dataset(folder, "test", 32, crop_ratio=1.0).fingerprint != before
    save(folder / "val" / "n01" / "c.png", (255, 0, 1))
    assert load_dataset(folder, "test", 32).fingerprint != before


def test_grey_and_palette_pictures_become_rgb():
    assert preprocess(Image.new("L", (40, 40), 7), 32).tolist() == [[[7, 7, 7]] * 32] * 32
    assert preprocess(Image.new("P", (40, 40)), 32).shape == (32, 32, 3)


def test_damaged_picture_is_named(folder):
    path = folder / "val" / "n01" / "c.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="c.png cannot be decoded"):
        load_dataset(folder, "test", 32)[0:1]


def test_wrong_layouts_are_told(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures.*<class>/<picture>"):
        load_dataset(tmp_path / "empty", "test", 32)
    save(tmp_path / "half" / "train" / "n01" / "a.png", 0)
    with pytest.raises(DataError, match="split train but none of"):
        load_dataset(tmp_path / "half", "test", 32)
