"""Predictions, and how they are kept."""

import numpy as np
import pytest
import torch

from quant.data.dataset import ArrayDataset
from quant.predictions import PredictionFile, predict, top1


def dataset(count: int = 10) -> ArrayDataset:
    """Image i is filled with i, its label is i."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    return ArrayDataset(
        name="test", native=images, size=4, labels=np.arange(count), mean=(0.5,) * 3, std=(0.5,) * 3,
        class_names=[str(i) for i in range(count)],
    )  # fmt: skip


class Counter:
    """Names each image's number plus `offset`; remembers the images it was asked for; fails at `stop`."""

    def __init__(self, offset: int = 0, stop: int | None = None) -> None:
        self.offset, self.stop, self.seen = offset, stop, []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        numbers = images[:, 0, 0, 0].long()
        if self.stop in numbers.tolist():
            raise KeyboardInterrupt
        self.seen += numbers.tolist()
        return torch.nn.functional.one_hot((numbers + self.offset) % 10, 10)


def test_batches_limits_and_progress():
    counter, seen = Counter(1), []
    classes = predict({"a": counter}, dataset(), limit=7, batch_size=3, progress=lambda *x: seen.append(x))["a"]
    assert classes.tolist() == [1, 2, 3, 4, 5, 6, 7] and counter.seen == list(range(7))
    assert seen == [(0.0, "image 1 of 7"), (3 / 7, "image 4 of 7"), (6 / 7, "image 7 of 7")]
    assert top1(classes, dataset()) == 0.0
    assert top1(torch.tensor([0, 1, 5]), dataset()) == pytest.approx(2 / 3)
    assert len(predict({"a": counter}, dataset(), limit=99)["a"]) == 10


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    file = PredictionFile(tmp_path / "folder" / "classes.json", "key")
    with pytest.raises(KeyboardInterrupt):
        predict({"a": Counter(), "b": Counter(1, stop=7)}, dataset(), batch_size=2, file=file)
    again = {"a": Counter(), "b": Counter(1)}
    classes = predict(again, dataset(), batch_size=2, file=file)
    # The batch that failed is run again for both.
    assert again["a"].seen == again["b"].seen == [6, 7, 8, 9]
    assert classes["a"].tolist() == list(range(10)) and classes["b"].tolist() == [*range(1, 10), 0]
    idle = {"a": Counter(), "b": Counter(1)}
    assert predict(idle, dataset(), limit=4, file=file)["b"].tolist() == [1, 2, 3, 4] and not idle["a"].seen
    assert len(file.load()["a"]) == 10


def test_more_images_reuse_those_that_were_run(tmp_path):
    file = PredictionFile(tmp_path / "classes.json", "key")
    predict({"a": Counter()}, dataset(), limit=4, file=file)
    more = Counter()
    assert len(predict({"a": more}, dataset(), limit=6, file=file)["a"]) == 6 and more.seen == [4, 5]


@pytest.mark.parametrize("spoil", ["key", "damage"])
def test_other_or_damaged_files_are_not_used(tmp_path, spoil):
    file = PredictionFile(tmp_path / "classes.json", "key")
    predict({"a": Counter()}, dataset(), file=file)
    if spoil == "key":
        file = PredictionFile(file.path, "another")
    else:
        file.path.write_text(file.path.read_text()[:20])
    counter = Counter()
    predict({"a": counter}, dataset(), file=file)
    assert counter.seen == list(range(10))
