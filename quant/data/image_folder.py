"""Image folders in ImageNet's layout: one sub-folder per class.

Preprocessing is that of evaluations on ImageNet: resize the shorter side to ``ceil(size / crop_ratio)`` pixels
(bicubic), then crop the centre. The official EfficientViT evaluation has a crop ratio of 0.95 at every size.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from quant.data.cache import DataError
from quant.data.dataset import Dataset

__all__ = ["CROP_RATIO", "IMAGENET_MEAN", "IMAGENET_STD", "ImageFolder", "preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_RATIO = 0.95

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm")
# Names under which a split's folder is looked for, in order.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}


class ImageFolder(Dataset):
    """Pictures under ``root/<split>/<class>/`` or, without split folders, ``root/<class>/``.

    A class's index is its place among the sorted class folders (for ImageNet's synset folders: the
    usual order of its 1000 classes). Pictures are decoded when asked for.

    Parameters
    ----------
    root : the folder.
    split : "train" (folder ``train``) or "test" (folder ``val`` or ``test``).
    size : height and width of the crops.
    crop_ratio : part of the resized picture's shorter side that the crop takes, above 0, at most 1.

    Members
    -------
    files : path of each picture: the first by name of every class in turn, then the second of every class, and so on.

    Raises
    ------
    DataError : no such folder, or no pictures in it.
    """

    def __init__(self, root: Path, split: str, size: int, crop_ratio: float = CROP_RATIO) -> None:
        self.crop_ratio = crop_ratio
        folder = _split_folder(root, split)
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        # The first picture of every class, then the second, so that the first pictures stand for all.
        files = sorted(
            (place, label, path)
            for label, name in enumerate(names)
            for place, path in enumerate(sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES))
        )
        if not files:
            raise DataError(
                f"{folder} holds no pictures ({', '.join(SUFFIXES)}) in class folders; lay them out as "
                f"{folder}/<class>/<picture>"
            )
        self.files = tuple(path for _, _, path in files)
        super().__init__(
            name=root.name,
            size=size,
            labels=np.array([label for _, label, _ in files]),
            class_names=names,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )

    def _images(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for position, index in enumerate(indices):
            images[position] = self._read(self.files[index])
        return images

    def _content(self) -> bytes:
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return repr((self.crop_ratio, files)).encode()

    def _read(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                return preprocess(picture, self.size, self.crop_ratio)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace or remove it") from error


def preprocess(picture: Image.Image, size: int, crop_ratio: float = CROP_RATIO) -> np.ndarray:
    """Resize and crop one picture; returns (size, size, 3) uint8."""
    short = math.ceil(size / crop_ratio)
    picture = picture.convert("RGB")
    width, height = picture.size
    if width <= height:
        resized = (short, int(short * height / width))
    else:
        resized = (int(short * width / height), short)
    picture = picture.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the path of an image folder")
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    others = [name for names in SPLIT_FOLDERS.values() for name in names if (root / name).is_dir()]
    if others:
        raise DataError(f"{root} has the split {', '.join(others)} but none of {SPLIT_FOLDERS[split]}")
    return root
