"""Structure of Swin, and equality with timm."""

import pytest
import torch
from random_network import randomise
from timm_oracle import timm_classifier

from quant.models.registry import build, build_model
from quant.models.swin import SWIN, SwinConfig, merge_windows, shift_mask, split_windows

PARAMETERS = {"swin-t": 28_288_354, "swin-s": 49_606_258, "swin-b": 87_768_224}
SMALL = SwinConfig(width=24, depths=(2, 3), heads=(2, 3), size=48, patch=2, window=4, mlp_ratio=2, num_classes=7)


def randomised(model, seed=1):
    """Relative position biases too, which are no module's `bias`."""
    generator = torch.Generator().manual_seed(seed)
    randomise(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter.normal_(0.0, 1.0, generator=generator)
    return model


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_size(name):
    with torch.device("meta"):
        model = build_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_tensors_are_those_of_timm():
    with torch.device("meta"):
        assert len(build_model("swin-t").state_dict()) == 173


def compare(oracle, model, size):
    oracle = randomised(oracle)
    assert set(model.state_dict()) == set(oracle.state_dict())
    model.load_state_dict(oracle.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = oracle(images)
        torch.testing.assert_close(model.eval()(images), expected, atol=1e-4, rtol=0)
    # Worth something only if the output tells the two images apart.
    assert (expected[0] - expected[1]).abs().max() > 1e-2


# Blocks of every kind, on fewer blocks than the real networks have in their third stage.
@pytest.mark.parametrize(("name", "kind"), [("swin-t", "tiny"), ("swin-b", "base")])
def test_equals_timm(name, kind):
    depths = (2, 1, 2, 2)
    oracle = timm_classifier(f"swin_{kind}_patch4_window7_224", num_classes=11, depths=depths)
    compare(oracle, build(SWIN[name].replace(num_classes=11, depths=depths)), 224)


@pytest.mark.parametrize("window", [4, 6, 12])
def test_equals_timm_at_other_sizes(window):
    config = SMALL.replace(window=window)
    settings = {"patch_size": 2, "window_size": window, "embed_dim": 24, "mlp_ratio": 2.0}
    oracle = timm_classifier(
        "swin_tiny_patch4_window7_224", num_classes=7, img_size=48, depths=(2, 3), num_heads=(2, 3), **settings
    )
    compare(oracle, build(config), 48)


def test_windows_are_split_and_merged():
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = split_windows(x, 2)
    assert windows[:, :, 0][:2].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert torch.equal(merge_windows(windows, 2, 4, 6), x)


def test_mask_hides_what_the_shift_brought_together():
    mask = shift_mask(8, 8, 4, 2)
    assert not mask[0].any()
    # In the last window of a row, the right half comes from the left border.
    assert mask[1].sum(1).tolist() == [8] * 16 and not mask[1, 0, 1] and mask[1, 0, 2]
    assert mask[3].sum(1).tolist() == [12] * 16


@pytest.mark.parametrize("change", [{"heads": (5, 3)}, {"size": 50}, {"window": 5}, {"depths": (2,)}, {"width": 0}])
def test_config_rejects_sizes_that_cannot_be(change):
    with pytest.raises(ValueError, match="heads|halved|tile|positive"):
        SMALL.replace(**change)
