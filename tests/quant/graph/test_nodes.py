"""Operations of float graphs, each by itself."""

import pytest
import torch
from torch.nn import functional as F

from quant.graph import (
    FloatConv,
    FloatLayerNorm,
    FloatMerge,
    FloatRectify,
    FloatSelect,
    FloatSoftmaxAttention,
    FloatTokens,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patches():
    weight, bias = normal(5, 3, 4, 4), normal(5, seed=1)
    node = FloatConv(name="x", inputs=("y",), weight=weight, bias=bias, stride=4, padding=None, activation="gelu")
    x = normal(2, 3, 8, 12, seed=2)
    result = node.run(x)
    assert result["output"].shape == (2, 5, 2, 3)
    first = torch.einsum("ochw,nchw->no", weight, x[:, :, :4, :4]) + bias
    torch.testing.assert_close(result["linear"][:, :, 0, 0], first)
    torch.testing.assert_close(result["output"], F.gelu(result["linear"]))


def test_layer_norm_of_every_pixel():
    node = FloatLayerNorm(name="x", inputs=("y",), weight=normal(6), bias=normal(6, seed=1), epsilon=1e-6)
    x = normal(2, 6, 3, 4, seed=2)
    output = node.run(x)["output"]
    expected = F.layer_norm(x[1, :, 2, 3], (6,), node.weight, node.bias, 1e-6)
    torch.testing.assert_close(output[1, :, 2, 3], expected)


def test_tokens():
    node = FloatTokens(name="x", inputs=("y",), tokens=normal(4, 2), positions=normal(4, 8, seed=1))
    x = normal(3, 4, 2, 3, seed=2)
    output = node.run(x)["output"]
    assert output.shape == (3, 4, 1, 8)
    torch.testing.assert_close(output[1, :, 0, 1], node.tokens[:, 1] + node.positions[:, 1])
    torch.testing.assert_close(output[1, :, 0, 2 + 4], x[1, :, 1, 1] + node.positions[:, 6])


@pytest.mark.parametrize("centred", [True, False])
def test_rectified_queries_and_keys(centred):
    gain, shift = normal(12), normal(12, seed=1)
    node = FloatRectify(name="x", inputs=("y",), heads=2, gain=gain, shift=shift, epsilon=1e-5, centred=centred)
    x = 3 + normal(2, 18, 1, 5, seed=2)
    if not centred:
        # Heads of zero mean, as weights can make them: then both forms are the same.
        x = (x.unflatten(1, (6, 3)) - x.unflatten(1, (6, 3)).mean(2, keepdim=True)).flatten(1, 2)
    output = node.run(x)["output"]
    assert torch.equal(output[:, 12:], x[:, 12:])
    for head in range(4):
        channels = slice(3 * head, 3 * head + 3)
        expected = F.layer_norm(x[1, channels, 0, 4], (3,), gain[channels], shift[channels], 1e-5)
        torch.testing.assert_close(output[1, channels, 0, 4], expected, atol=1e-5, rtol=1e-5)


def test_softmax_attention_among_all_tokens():
    node = FloatSoftmaxAttention(name="x", inputs=("y",), heads=2, scale=0.5)
    x = normal(2, 24, 1, 5)
    result = node.run(x)
    assert result["scores"].shape == result["attention"].shape == (2, 2, 5, 5)
    q, k, v = x[:, :, 0].reshape(2, 3, 2, 4, 5).unbind(1)
    scores = 0.5 * q[1, 1].T @ k[1, 1]
    torch.testing.assert_close(result["scores"][1, 1], scores)
    torch.testing.assert_close(result["output"][1, 4:, 0], v[1, 1] @ scores.softmax(1).T)


def test_shifted_windows_see_only_their_own_pixels():
    """Tokens of a window see each other and nobody else; biases go by positions in the window."""
    bias = normal(1, 16, 16, seed=1)
    node = FloatSoftmaxAttention(name="x", inputs=("y",), heads=1, scale=0.0, window=4, shift=2, bias=bias)
    x = normal(1, 3, 8, 8)
    output = node.run(x)["output"][0, 0]
    values = x[0, 2]
    # Pixels 2..5 of both directions make one whole window.
    expected = (bias[0].softmax(1) @ values[2:6, 2:6].flatten()).reshape(4, 4)
    torch.testing.assert_close(output[2:6, 2:6], expected)
    # The upper left corner's 2 x 2 pixels are the last ones of a window of four corners.
    last = [10, 11, 14, 15]
    expected = (bias[0][last][:, last].softmax(1) @ values[:2, :2].flatten()).reshape(2, 2)
    torch.testing.assert_close(output[:2, :2], expected)


def test_merging_takes_columns_first():
    x = torch.arange(16).reshape(1, 1, 4, 4)
    output = FloatMerge(name="x", inputs=("y",)).run(x)["output"]
    assert output.shape == (1, 4, 2, 2) and output[0, :, 0, 0].tolist() == [0, 4, 1, 5]


def test_selected_tokens():
    x = normal(2, 3, 1, 5)
    output = FloatSelect(name="x", inputs=("y",), tokens=(0, 2)).run(x)["output"]
    assert output.shape == (2, 6, 1, 1)
    torch.testing.assert_close(output[1, :, 0, 0], torch.cat((x[1, :, 0, 0], x[1, :, 0, 2])))
