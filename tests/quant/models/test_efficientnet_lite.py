"""EfficientNet-Lite0: its padding, its weights, and its class for a photograph."""

from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from quant.data import DataError, normalise
from quant.data.image_folder import preprocess
from quant.evaluate import signal_to_noise
from quant.graph import FloatConv, FloatGraph
from quant.models import efficientnet_lite
from quant.models.efficientnet_lite import CLASSES, CROP_RATIO, MEAN, SIZE, STD, load_efficientnet_lite0
from quant.quantize import quantize

#: ImageNet classes that fit the portrait of Grace Hopper in uniform and cap
FITTING = {400, 457, 652, 667, 906}  # academic gown, bow tie, military uniform, mortarboard, Windsor tie


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    try:
        return load_efficientnet_lite0()
    except DataError as error:
        pytest.skip(f"no weights of EfficientNet-Lite0: {error}")


def photograph(size: int):
    path = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as picture:
        return preprocess(picture, size, CROP_RATIO)[None].copy()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_larger_kernels_stand_for_tensorflow_padding(kernel, stride):
    x = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 1, kernel, kernel, generator=torch.Generator().manual_seed(1))
    missing = kernel - stride  # so that 12 pixels give 12 / stride
    before = missing // 2
    padded = F.pad(x, (before, missing - before) * 2)
    expected = F.conv2d(padded, weight, stride=stride, groups=4)
    larger = efficientnet_lite._padded(weight, stride)
    node = FloatConv(name="x", inputs=("y",), weight=larger, bias=torch.zeros(4), stride=stride, groups=4)
    assert torch.allclose(node.run(x)["output"], expected, atol=1e-5)


def test_structure(graph):
    convolutions = [node for node in graph.nodes if isinstance(node, FloatConv)]
    # The stem, 1 block of two and 15 of three convolutions, the head's two.
    assert len(convolutions) == 1 + 2 + 15 * 3 + 2 and len(graph.nodes) == len(convolutions) + 1
    assert sum(len(node.inputs) == 2 for node in convolutions) == 9
    assert sum(node.stride == 2 for node in convolutions) == 5


def test_a_photograph_is_recognised(graph):
    scores = graph.logits(normalise(photograph(SIZE), MEAN, STD))
    assert scores.shape == (1, CLASSES)
    assert set(scores.softmax(1).topk(3).indices[0].tolist()) <= FITTING


def test_relu6_is_what_clamped_codes_do(graph):
    """The first blocks in integers: what they stand for stays within 0 and 6, and near the float network."""
    head = FloatGraph(graph.nodes[:6])
    image = photograph(96)
    network = quantize(head, image, MEAN, STD)
    assert min(signal_to_noise(head, network, image).values()) > 20
    for node in head.nodes:
        form = network.info["formats"][node.name]
        if node.activation == "relu6":
            assert set(form["zero_point"]) == {0} and 255 * max(form["scale"]) <= 6.001
