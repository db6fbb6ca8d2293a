"""Training through the integer operations."""

import pytest
import torch
from qat_networks import MEAN, SIZES, STD, images, network
from torch.nn import functional as F

from quant.data.noise import noise_images
from quant.evaluate import dequantize
from quant.qat.config import QatConfig
from quant.qat.export import integer_network
from quant.qat.loss import DistillationLoss
from quant.qat.through import IntegerForward, ThroughIntegers

LABELS = torch.tensor([1, 5, 2, 9])
CASES = [
    ("deit-cifar", {"bits": 2, "rectify": "centred"}),
    ("deit-cifar-distilled", {"bits": 3, "map_scales": "groups"}),
    ("swin-cifar", {"bits": 4}),
    ("b0", {"bits": 4}),
]


def forward(name):
    return IntegerForward(noise_images(4, SIZES[name]), MEAN, STD)


def through(trained, name):
    return ThroughIntegers(DistillationLoss(QatConfig(), trained.graph, trained.graph), forward(name))


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_every_map_holds_what_the_integer_network_computes(name, settings):
    trained = network(name, **settings).eval()
    made = integer_network(trained, noise_images(4, SIZES[name]), MEAN, STD)
    trace = made.run(torch.from_numpy(noise_images(4, SIZES[name])), trace=True)
    x = images(name)
    values = forward(name).values(trained, x)
    for node, tensors in trained.run(x, values):
        expected = dequantize(made, node.name, trace[node.name]).float()
        torch.testing.assert_close(tensors["output"], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    scores = expected[:, :, 0, 0]
    torch.testing.assert_close(through(trained, name)(trained, x, LABELS), F.cross_entropy(scores, LABELS))
    torch.testing.assert_close(forward(name).scores(trained, x), scores)


def test_gradients_are_those_of_the_fake_quantized_network_there():
    """With values that are its own anyway, nothing changes."""
    trained, x = network("deit-cifar", bits=4), images("deit-cifar")
    own = {node.name: tensors["output"].detach() for node, tensors in trained.run(x)}
    gradients = []
    for values in (None, own):
        trained.zero_grad()
        *_, (_, tensors) = trained.run(x, values)
        F.cross_entropy(tensors["output"][:, :, 0, 0], LABELS).backward()
        gradients.append([parameter.grad for parameter in trained.parameters() if parameter.grad is not None])
    assert gradients[0] and len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_it_learns():
    trained, x = network("deit-cifar", bits=2), images("deit-cifar")
    loss = through(trained, "deit-cifar")
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        found = loss(trained, x, LABELS)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    assert losses[-1] < 0.7 * losses[0]
