"""Structure of EfficientViT, and equality with the official code."""

import pytest
import torch
from official_efficientvit import official_classifier
from random_network import randomise

from quant.models.efficientvit import EFFICIENTVIT, EfficientViTConfig, LiteMLA, build_efficientvit

PARAMETERS = {"b0": 3_410_008, "b1": 9_102_024, "b2": 24_330_712, "b3": 48_646_056}
TENSORS = {"b0": 197, "b1": 272, "b2": 365, "b3": 514}


@pytest.mark.parametrize("name", EFFICIENTVIT)
def test_has_the_published_size(name):
    with torch.device("meta"):
        model = build_efficientvit(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert len(model.state_dict()) == TENSORS[name]


@pytest.mark.parametrize("size", range(32, 289, 32))
@pytest.mark.parametrize("name", EFFICIENTVIT)
def test_takes_any_input_size(name, size):
    config = EFFICIENTVIT[name]
    with torch.device("meta"):
        model = build_efficientvit(name, num_classes=7).eval()
        images = torch.empty(2, 3, size, size)
        assert model.backbone(images).shape == (2, config.widths[4], size // 32, size // 32)
        assert model(images).shape == (2, 7)


def test_runs_on_oblong_input():
    model = build_efficientvit("b0", num_classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 96)).shape == (1, 5)


# At 64 pixels the official code takes its quadratic form in both attention stages.
@pytest.mark.parametrize(("name", "size"), [("b0", 64), ("b0", 96), ("b0", 224), ("b1", 128), ("b2", 96), ("b3", 160)])
def test_equals_the_official_code(name, size):
    official = randomise(official_classifier(name, num_classes=11), seed=1)
    model = build_efficientvit(name, num_classes=11).eval()
    assert list(model.state_dict()) == list(official.state_dict())
    model.load_state_dict(official.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = official(images)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    # Worth something only if the output tells the two images apart.
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_attention_is_the_normalised_kernel_sum():
    attention = LiteMLA(channels=32, head_dim=16)
    qkv = torch.randn(1, 192, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = attention.relu_linear_att(qkv).reshape(4, 16, 15)
    for head in range(4):
        q, k, v = qkv[0, 48 * head : 48 * (head + 1)].reshape(3, 16, 15)
        scores = k.relu().T @ q.relu()  # (source, target)
        torch.testing.assert_close(out[head], v @ (scores / scores.sum(0)))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="b9.*b0"):
        build_efficientvit("b9")


@pytest.mark.parametrize("change", [{"head_dim": 24}, {"widths": (8, 16)}, {"num_classes": 0}])
def test_config_rejects_sizes_that_cannot_be(change):
    sizes = {
        "widths": (8, 16, 32, 64, 128),
        "depths": (1, 2, 2, 2, 2),
        "head_dim": 16,
        "head_widths": (1024, 1280),
    }
    with pytest.raises(ValueError, match="head_dim|widths|positive"):
        EfficientViTConfig(**sizes | change)
