"""Pictures of nothing: smooth coloured noise, for networks without a data set at hand."""

import numpy as np
import torch

from quant.data.dataset import Dataset

__all__ = ["NoiseDataset", "noise_images"]

IMAGES = 1024
#: seeds of the splits lie this far apart
SPLIT_SEEDS = {"train": 0, "test": 1 << 32}


def noise_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured noise: (count, size, size, 3) uint8 with the full range of brightness."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, size, size)
    for cells in (2, 4, 8, 16):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        images += torch.nn.functional.interpolate(noise, size, mode="bilinear", align_corners=False)
    images = (128 + 50 * images).clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().numpy()


class NoiseDataset(Dataset):
    """1024 images of noise per split; every label is 0. The same index always gives the same image."""

    def __init__(self, split: str, size: int) -> None:
        super().__init__(
            name="noise",
            size=size,
            labels=np.zeros(IMAGES),
            class_names=("noise",),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        self.first_seed = SPLIT_SEEDS[split]

    def _images(self, indices: np.ndarray) -> np.ndarray:
        return np.concatenate([noise_images(1, self.size, self.first_seed + int(i)) for i in indices])

    def _content(self) -> bytes:
        return str(self.first_seed).encode()
