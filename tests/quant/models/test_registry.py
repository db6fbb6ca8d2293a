"""Networks by name, and for other inputs."""

import pytest
import torch

from quant.data.noise import noise_images
from quant.models.random_weights import random_model
from quant.models.registry import MODELS, at_size, build, build_model, model_name

MEAN, STD = (0.5,) * 3, (0.25,) * 3


@pytest.mark.parametrize("name", MODELS)
def test_names_are_found_again(name):
    assert model_name(MODELS[name].replace(num_classes=3)) == name


def test_unknown_names_and_sizes_are_told():
    with pytest.raises(ValueError, match="deit-x.*b0.*deit-t.*swin-t"):
        build_model("deit-x")
    with pytest.raises(ValueError, match="no known network"):
        model_name(MODELS["deit-t"].replace(depth=5))


@pytest.mark.parametrize(("name", "size"), [("b0", 64), ("deit-cifar", 48), ("swin-cifar", 64)])
def test_other_input_sizes(name, size):
    model = build_model(name, num_classes=5).eval()
    other = at_size(model, size)
    assert other(torch.zeros(1, 3, size, size)).shape == (1, 5)
    assert at_size(other, size) is other and not other.training


def test_windows_must_stay_what_they_were():
    model = build(MODELS["swin-cifar"].replace(depths=(1, 1), heads=(2, 4)))
    with pytest.raises(ValueError, match="trained on windows of 4"):
        at_size(model, 8)


@pytest.mark.parametrize("name", ["deit-cifar-distilled", "swin-cifar"])
def test_random_networks_tell_images_apart(name):
    model = random_model(MODELS[name], 32, MEAN, STD)
    with torch.no_grad():
        scores = model(torch.from_numpy(noise_images(4, 32)).permute(0, 3, 1, 2) / 255)
    assert torch.isfinite(scores).all() and scores.std(0).min() > 0.01
