"""Up-sampling is exact, and bilinear."""

import numpy as np
import pytest
import torch

from quant.data.upsample import upsample


def random_images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, n, n, 3), dtype=np.uint8)


def integer_upsample(image: np.ndarray, size: int) -> np.ndarray:
    """The definition, pixel by pixel, in Python's integers; image (n, n)."""
    n = len(image)

    def taps(i):
        near, weight = divmod((2 * i + 1) * n - size, 2 * size)
        return [(min(max(near, 0), n - 1), 2 * size - weight), (min(max(near + 1, 0), n - 1), weight)]

    out = np.zeros((size, size), np.uint8)
    for y in range(size):
        for x in range(size):
            total = sum(int(image[r, c]) * wr * wc for r, wr in taps(y) for c, wc in taps(x))
            out[y, x] = (2 * total + 4 * size * size) // (8 * size * size)
    return out


@pytest.mark.parametrize("size", [33, 48, 64, 96, 97, 128, 224])
def test_equals_its_definition(size):
    images = random_images(32)[:1, :, :, :1]
    assert np.array_equal(upsample(images, size)[0, :, :, 0], integer_upsample(images[0, :, :, 0], size))


def test_is_bilinear_interpolation():
    images = random_images(32)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    reference = torch.nn.functional.interpolate(planes, size=(96, 96), mode="bilinear")
    difference = np.abs(upsample(images, 96) - reference.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 0.5 + 1e-9


def test_flat_images_stay_flat():
    for value in (0, 1, 254, 255):
        assert (upsample(np.full((1, 32, 32, 3), value, np.uint8), 200) == value).all()


def test_native_size_is_untouched():
    images = random_images(32)
    assert upsample(images, 32) is images


@pytest.mark.parametrize("size", [31, 513])
def test_size_out_of_range_is_told(size):
    with pytest.raises(ValueError, match=rf"{size}; choose 32 .. 512"):
        upsample(random_images(32), size)
