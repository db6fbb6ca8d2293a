"""Classes that networks name for the images of a data set, kept in a file so that a run can be stopped at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from quant.data import Dataset

__all__ = ["Classifier", "PredictionFile", "Progress", "predict", "top1"]

#: maps a batch of images (N, size, size, 3) uint8 to class scores (N, classes)
Classifier = Callable[[Tensor], Tensor]
#: `progress(done, text)` is told how much of the work is done, 0..1, and what is going on
Progress = Callable[[float, str], None]

#: the file is brought up to date this often, and when the run ends in any way
SAVE_SECONDS = 5.0


@dataclass(frozen=True)
class PredictionFile:
    """Predictions on disk.

    Parameters
    ----------
    path : JSON file, made with its folders when first saved.
    key : identifies the networks and the data; what was saved under another key is dropped.
    """

    path: Path
    key: str

    def load(self) -> dict[str, list[int]]:
        """Classes by classifier; empty if there are none, or those of other networks or data."""
        try:
            document = json.loads(self.path.read_text())
            return document["classes"] if document["key"] == self.key else {}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {}

    def save(self, classes: Mapping[str, list[int]]) -> None:
        """Replace the file's content, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".partial")
        temporary.write_text(json.dumps({"key": self.key, "classes": classes}))
        temporary.replace(self.path)


def predict(
    classifiers: Mapping[str, Classifier],
    dataset: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    file: PredictionFile | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Class (int64) that each classifier names for each of the first `limit` images (all if None).

    A batch of images is made once for all classifiers. With a `file`, batches that are in it are not run again. The
    small default batch keeps integer tensors in the processor's cache, which is faster than large batches.
    """
    count = min(len(dataset), limit or len(dataset))
    found = file.load() if file else {}
    done = min(len(found.get(name, ())) for name in classifiers)
    classes = {name: found.get(name, [])[:done] for name in classifiers}
    saved = time.monotonic()
    try:
        for start in range(done, count, batch_size):
            if progress:
                progress(start / count, f"image {start + 1} of {count}")
            images = torch.from_numpy(dataset[start : min(start + batch_size, count)][0])
            for name, classifier in classifiers.items():
                classes[name] += classifier(images).argmax(1).tolist()
            if file and time.monotonic() - saved > SAVE_SECONDS:
                file.save(classes)
                saved = time.monotonic()
    finally:
        if file and done < count:
            file.save(classes)
    return {name: torch.tensor(values[:count]) for name, values in classes.items()}


def top1(classes: Tensor, dataset: Dataset) -> float:
    """Share of predictions that are the first images' labels."""
    labels = torch.from_numpy(dataset.labels[: len(classes)])
    return float((classes == labels).double().mean())
