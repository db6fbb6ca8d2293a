"""Folding batch norms leaves the function as it is."""

import copy

import pytest
import torch
from random_network import randomise
from torch import nn

from quant.models.efficientvit import EFFICIENTVIT, build_efficientvit
from quant.models.fold import fold_batch_norms


@pytest.mark.parametrize("name", EFFICIENTVIT)
def test_folded_network_gives_equal_outputs(name):
    model = randomise(build_efficientvit(name, num_classes=10))
    folded = fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(folded(images), expected, atol=1e-5, rtol=0)
    # Worth something only if the output tells the two images apart.
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_the_original_is_left_alone():
    model = randomise(build_efficientvit("b0", num_classes=10)).train()
    before = copy.deepcopy(model.state_dict())
    assert not fold_batch_norms(model).training
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_folding_twice_changes_nothing():
    once = fold_batch_norms(randomise(build_efficientvit("b0", num_classes=10)))
    twice = fold_batch_norms(once)
    assert all(torch.equal(value, twice.state_dict()[key]) for key, value in once.state_dict().items())
