"""What networks learn from."""

import pytest
import torch
from qat_networks import MEAN, STD, images, network
from torch.nn import functional as F

from quant.graph import FloatGraph
from quant.models.random_weights import random_model
from quant.models.registry import MODELS
from quant.qat.config import QatConfig
from quant.qat.loss import DistillationLoss, guidance, similarity

LABELS = torch.tensor([1, 5, 2, 9])


def loss_of(trained, **settings):
    config = QatConfig(**settings)
    twin = FloatGraph.from_model(random_model(MODELS["deit-cifar"], 32, MEAN, STD, seed=7))
    return DistillationLoss(config, twin, trained.graph), twin


def test_similarity_does_not_depend_on_size_or_basis():
    x = torch.randn(2, 3, 5, 8)
    found = similarity(x)
    assert found.shape == (2, 3, 5, 5)
    torch.testing.assert_close(torch.linalg.matrix_norm(found), torch.ones(2, 3))
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    torch.testing.assert_close(similarity(3 * x @ turn), found, atol=1e-5, rtol=1e-5)


def test_guidance_is_the_sum_over_layers_heads_queries_and_keys():
    pairs = [(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)) for _ in range(2)]
    others = [(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)) for _ in range(2)]
    assert float(guidance(pairs, pairs)) == 0
    expected = torch.zeros(2)
    for pair, other in zip(pairs, others):
        for x, y in zip(pair, other):
            for head in range(3):
                expected += torch.linalg.matrix_norm(similarity(x)[:, head] - similarity(y)[:, head])
    torch.testing.assert_close(guidance(pairs, others), expected.mean())


def test_every_part_of_the_loss():
    trained, x = network("deit-cifar", bits=4).eval(), images("deit-cifar")
    scores = trained(x)
    plain, twin = loss_of(trained)
    torch.testing.assert_close(plain(trained, x, LABELS), F.cross_entropy(scores, LABELS))
    taught, _ = loss_of(trained, teacher=True)
    halves = [F.cross_entropy(scores, labels) / 2 for labels in (LABELS, twin.logits(x).argmax(1))]
    torch.testing.assert_close(taught(trained, x, LABELS), sum(halves))
    guided, _ = loss_of(trained, guidance=0.5)
    extra = guided(trained, x, LABELS) - F.cross_entropy(scores, LABELS)
    # Four layers, two heads, queries and keys, each at most the square root of 2 apart.
    assert 0.1 < extra.item() < 0.5 * 16 * 2**0.5


@pytest.mark.parametrize("rectify", [None, "centred", "rms"])
def test_guidance_leads_to_the_twin(rectify):
    """A network of many bits has the similarities of the network it was made from, whether rectified or not."""
    trained = network("deit-cifar", bits=8, rectify=rectify).eval()
    own = FloatGraph.from_model(random_model(MODELS["deit-cifar"], 32, MEAN, STD))
    x, config = images("deit-cifar"), QatConfig(guidance=1.0)
    extras = []
    for twin in (own, loss_of(trained)[1]):
        loss = DistillationLoss(config, twin, trained.graph)
        extras.append((loss(trained, x, LABELS) - F.cross_entropy(trained(x), LABELS)).item())
    assert extras[0] < 0.5 * extras[1]


def test_networks_without_softmax_cannot_be_guided():
    trained = network("b0")
    with pytest.raises(ValueError, match="no softmax attention"):
        DistillationLoss(QatConfig(guidance=1.0), trained.graph, trained.graph)
