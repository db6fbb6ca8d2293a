"""Structure of DeiT, and equality with timm."""

import pytest
import torch
from random_network import randomise
from timm_oracle import timm_classifier

from quant.models.deit import DEIT, DeiTConfig, resized_positions
from quant.models.registry import build, build_model

PARAMETERS = {"deit-t": 5_717_416, "deit-s": 22_050_664, "deit-b": 86_567_656}
VARIANTS = {"deit-t": "tiny", "deit-s": "small", "deit-b": "base"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_size(name):
    with torch.device("meta"):
        plain, distilled = build_model(name), build_model(f"{name}-distilled")
    assert sum(parameter.numel() for parameter in plain.parameters()) == PARAMETERS[name]
    assert (len(plain.state_dict()), len(distilled.state_dict())) == (152, 155)


@pytest.mark.parametrize("distilled", [False, True])
def test_takes_any_size(distilled):
    config = DeiTConfig(width=48, depth=2, heads=3, size=40, patch=8, distilled=distilled, num_classes=7)
    model = build(config).eval()
    assert model.pos_embed.shape == (1, 25 + config.prefix, 48)
    assert model(torch.zeros(2, 3, 40, 40)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("deit-t", {}),
        ("deit-t-distilled", {}),
        ("deit-s", {"depth": 3}),
        ("deit-b-distilled", {"depth": 2}),
    ],
)
def test_equals_timm(name, settings):
    variant, _, distilled = name.removeprefix("deit-").partition("-")
    kind = f"deit_{VARIANTS[f'deit-{variant}']}_{'distilled_' if distilled else ''}patch16_224"
    oracle = randomise(timm_classifier(kind, num_classes=11, **settings), seed=1)
    model = build(DEIT[name].replace(num_classes=11, **settings)).eval()
    assert set(model.state_dict()) == set(oracle.state_dict())
    model.load_state_dict(oracle.state_dict())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = oracle(images)
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=0)
    # Worth something only if the output tells the two images apart.
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_positions_are_resized_and_tokens_keep_theirs():
    table = torch.arange(16.0).reshape(1, 16, 1)
    positions = torch.cat((torch.tensor([[[100.0]]]), table), 1)
    assert resized_positions(positions, 1, 4) is positions
    larger = resized_positions(positions, 1, 8)
    assert larger.shape == (1, 65, 1) and larger[0, 0] == 100
    # A table that rises still rises, row by row and column by column, and is as symmetric.
    found = larger[0, 1:, 0].reshape(8, 8)
    assert (found.diff(dim=0) > 0).all() and (found.diff(dim=1) > 0).all()
    torch.testing.assert_close(found + found.flip(0, 1), torch.full((8, 8), 15.0))


def test_without_classes_equals_timm():
    settings = dict(img_size=56, patch_size=14, depth=2, num_classes=0)
    oracle = randomise(timm_classifier("deit_small_patch16_224", **settings), seed=1)
    model = build(DEIT["deit-s"].replace(size=56, patch=14, depth=2, num_classes=0)).eval()
    model.load_state_dict(oracle.state_dict())
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(images), oracle(images), atol=1e-4, rtol=0)


def test_a_distilled_network_has_classes():
    with pytest.raises(ValueError, match="distilled network cannot have 0 classes"):
        DEIT["deit-t-distilled"].replace(num_classes=0)


@pytest.mark.parametrize("change", [{"heads": 5}, {"size": 230}, {"depth": 0}, {"num_classes": -1}])
def test_config_rejects_sizes_that_cannot_be(change):
    with pytest.raises(ValueError, match="heads|multiple|positive|classes"):
        DEIT["deit-t"].replace(**change)
