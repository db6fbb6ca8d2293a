"""Accuracy, agreement, and noise figures."""

import math

import numpy as np
import pytest
import torch

from quant.data import normalise
from quant.data.dataset import ArrayDataset
from quant.data.noise import noise_images
from quant.evaluate import compare, predictions, signal_to_noise, top1
from quant.graph import FloatGraph
from quant.models.random_weights import random_model
from quant.quantize import QuantizerConfig, quantize
from tests.quant.support import CONFIGS, MEAN, STD


def dataset(images: np.ndarray, labels: np.ndarray) -> ArrayDataset:
    return ArrayDataset(
        name="noise", native=images, size=images.shape[1], labels=labels, mean=MEAN, std=STD,
        class_names=[str(i) for i in range(10)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    images = noise_images(20, 32, 1)
    return model, quantize(model, images, MEAN, STD), images


def test_top1_and_limits():
    data = dataset(np.zeros((6, 32, 32, 3), np.uint8), np.array([0, 1, 2, 3, 4, 5]))
    sizes = []

    def classifier(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return torch.nn.functional.one_hot(torch.tensor([1] * len(images)), 10)

    classes = predictions(classifier, data, batch_size=4)
    assert classes.tolist() == [1] * 6 and sizes == [4, 2] and top1(classes, data) == pytest.approx(1 / 6)
    classes = predictions(classifier, data, limit=3, batch_size=2)
    assert len(classes) == 3 and sizes[2:] == [2, 1] and top1(classes, data) == pytest.approx(1 / 3)


def test_compare(setting):
    model, network, images = setting
    graph = FloatGraph.from_model(model)

    labels = graph.logits(normalise(images, MEAN, STD)).argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % 10
    seen = []
    result = compare(model, network, dataset(images, labels), batch_size=8, progress=lambda *x: seen.append(x))
    integer = network.run(torch.from_numpy(images)).argmax(1).numpy()
    assert result.images == 20 and result.float_top1 == 0.75
    assert result.integer_top1 == pytest.approx(float((integer == labels).mean()))
    changed = labels.copy()
    changed[:5] = (labels[:5] - 1) % 10
    assert result.agreement == pytest.approx(float((integer == changed).mean()))
    done = [x for x, _ in seen]
    assert done == sorted(done) and seen[0][1].startswith("float") and seen[-1][1].startswith("integer")


def test_signal_to_noise(setting):
    model, network, images = setting
    ratios = signal_to_noise(model, network, images)
    assert list(ratios) == [node.name for node in network.nodes[1:]]
    assert all(math.isfinite(ratio) for ratio in ratios.values()) and ratios["stem.conv"] > 30
    coarse = signal_to_noise(model, quantize(model, images, MEAN, STD, QuantizerConfig(act_bits=4)), images)
    assert coarse["stem.conv"] < ratios["stem.conv"] - 10
