"""Networks with outlier channels."""

import torch

from quant.data import normalise
from quant.data.noise import noise_images
from quant.graph import FloatGraph
from quant.models.efficientvit import MBConv
from quant.models.random_weights import random_model
from quant.stress import depthwise_input_ranges, widen_ranges
from tests.quant.support import CONFIGS, MEAN, STD

IMAGES = noise_images(16, 64, 3)


def scores(model: torch.nn.Module, images=IMAGES) -> torch.Tensor:
    return FloatGraph.from_model(model).logits(normalise(images, MEAN, STD))


def test_outliers_are_as_wide_as_asked_and_the_model_is_left_alone():
    model = random_model(CONFIGS["tiny"], 64, MEAN, STD)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hard = widen_ranges(model, IMAGES, MEAN, STD, share=1 / 16, ratios=(30.0, 60.0))
    blocks = [name for name, module in model.named_modules() if isinstance(module, MBConv)]
    ranges = depthwise_input_ranges(hard, IMAGES, MEAN, STD)
    assert list(ranges) == blocks
    for name, widths in ranges.items():
        outliers = widths > 10 * widths.median()
        assert int(outliers.sum()) == round(len(widths) / 16), name
        # Means of the other channels move a little, and ranges with them.
        assert 25 < widths.max() / widths.median() < 70, name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_function_changes_little():
    model = random_model(CONFIGS["tiny"], 64, MEAN, STD)
    hard = widen_ranges(model, IMAGES, MEAN, STD, share=1 / 16)
    held_out = noise_images(16, 64, 4)
    exact, found = scores(model, held_out), scores(hard, held_out)
    noise = (found - exact).square().mean() / exact.var()
    assert 0 < noise < 0.05  # pre-activations of random networks are narrow, so hard swish is far from ReLU


def test_seeds_decide():
    model = random_model(CONFIGS["tiny"], 64, MEAN, STD)
    first, again, other = (scores(widen_ranges(model, IMAGES, MEAN, STD, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
