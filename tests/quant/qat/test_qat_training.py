"""The trainer with quantized networks: it learns what it loses by few bits, and resumes exactly."""

from pathlib import Path

import pytest
import torch
from qat_networks import INFO

from quant.data import normalise
from quant.graph import FloatGraph
from quant.models.registry import build
from quant.models.swin import SwinConfig
from quant.qat.checkpoint import new_network
from quant.qat.config import QatConfig
from quant.qat.loss import DistillationLoss
from quant.qat.network import QuantizedGraph
from quant.train import Loss, Schedule, TrainConfig, Trainer, evaluate
from tests.quant.test_train import coloured_images

CONFIG = TrainConfig(
    model="swin-cifar", schedule=Schedule.parse("32:4"), minutes=60.0, batch_size=16, peak_lr=2e-3, ema_decay=0.5
)
DATA = coloured_images(64, 32)
SWIN = SwinConfig(width=16, depths=(2, 1), heads=(2, 4), size=32, patch=4, window=4, mlp_ratio=2, num_classes=2)


@pytest.fixture(scope="module")
def twin() -> FloatGraph:
    torch.manual_seed(0)
    trainer = Trainer(CONFIG, DATA, build(SWIN))
    while not trainer.done:
        trainer.run_epoch(lambda _: None)
    assert evaluate(trainer.average, DATA) > 0.9
    return FloatGraph.from_model(trainer.average)


def start(twin: FloatGraph) -> tuple[QuantizedGraph, Loss]:
    settings = QatConfig(bits=2, rectify="rms", teacher=True, guidance=0.1)
    network = new_network(twin, settings, normalise(DATA[:16][0], DATA.mean, DATA.std), INFO)
    return network, DistillationLoss(settings, twin, network.graph)


def test_learns(twin):
    trainer = Trainer(CONFIG, DATA, *start(twin))
    losses = []
    while not trainer.done:
        losses.append(trainer.run_epoch(lambda _: None))
    assert losses[-1] < losses[0] and evaluate(trainer.average, DATA) > 0.9


def test_resumes_exactly(twin, tmp_path: Path):
    whole = Trainer(CONFIG, DATA, *start(twin))
    whole.run_epoch(lambda _: None)
    whole.save(tmp_path / "state")
    whole.run_epoch(lambda _: None)
    rest = Trainer(CONFIG, DATA, *start(twin))
    rest.load(tmp_path / "state")
    rest.run_epoch(lambda _: None)
    for (key, value), other in zip(whole.model.state_dict().items(), rest.model.state_dict().values()):
        assert torch.equal(value, other), key
