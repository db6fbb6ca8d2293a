"""Accuracy, agreement, and noise figures."""

import math

import numpy as np
import pytest
import torch

from quant.data import normalise
from quant.data.dataset import ArrayDataset
from quant.data.noise import noise_images
from quant.evaluate import compare, signal_to_noise
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


def test_compare(setting):
    model, network, images = setting
    graph = FloatGraph.from_model(model)

    labels = graph.logits(normalise(images, MEAN, STD)).argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % 10
    seen = []
    result = compare(model, network, dataset(images, labels), progress=lambda *x: seen.append(x))
    integer = network.run(torch.from_numpy(images)).argmax(1).numpy()
    assert result.images == 20 and result.float_top1 == 0.75
    assert result.integer_top1 == pytest.approx(float((integer == labels).mean()))
    changed = labels.copy()
    changed[:5] = (labels[:5] - 1) % 10
    assert result.agreement == pytest.approx(float((integer == changed).mean()))
    done = [x for x, _ in seen]
    assert done == sorted(done) and [text for _, text in seen] == ["image 1 of 20", "image 17 of 20"]
    # 16-bit scores differ little between float and integer arithmetic.
    assert result.fake_agreement >= 0.9 and result.fake_top1 >= 0.65


def test_signal_to_noise(setting):
    model, network, images = setting
    ratios = signal_to_noise(model, network, images)
    assert list(ratios) == [node.name for node in network.nodes[1:]]
    assert all(math.isfinite(ratio) for ratio in ratios.values()) and ratios["stem.conv"] > 30
    coarse = signal_to_noise(model, quantize(model, images, MEAN, STD, QuantizerConfig(act_bits=4)), images)
    assert coarse["stem.conv"] < ratios["stem.conv"] - 10


def test_noise_of_the_fake_quantized_network(setting):
    model, network, images = setting
    integer, fake = signal_to_noise(model, network, images), signal_to_noise(model, network, images, fake=True)
    assert list(fake) == list(integer)
    # The stem has nothing but its formats; later on, integer arithmetic adds noise of its own.
    assert fake["stem.conv"] == pytest.approx(integer["stem.conv"], abs=1.0)
    assert integer["head.fc2"] < fake["head.fc2"] + 3
    assert min(fake.values()) > 8
