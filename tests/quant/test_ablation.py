"""The ablation: its rows, and its runs."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from quant import ablation
from quant.ablation import ROWS, Subject, ablate
from quant.config import QuantizerConfig
from quant.data import normalise
from quant.data.dataset import ArrayDataset
from quant.data.noise import noise_images
from quant.graph import FloatGraph
from quant.models.random_weights import random_model
from quant.quantize import quantize
from tests.quant.support import CONFIGS, MEAN, STD


def dataset(seed: int) -> ArrayDataset:
    return ArrayDataset(
        name="noise", native=noise_images(12, 32, seed), size=32, labels=np.arange(12) % 10, mean=MEAN, std=STD,
        class_names=[str(i) for i in range(10)],
    )  # fmt: skip


def subject() -> Subject:
    model = random_model(CONFIGS["tiny"], 32, MEAN, STD)
    return Subject(name="tiny", model=model, mean=MEAN, std=STD, train=dataset(1), test=dataset(2))


def test_rows_go_from_plain_over_the_paper_to_ours():
    names, configs = list(ROWS), list(ROWS.values())
    assert configs[0] == QuantizerConfig.plain() and QuantizerConfig.trio_vit() in configs
    assert configs[-2] == QuantizerConfig() and configs[-1].reconstruction
    # Beyond the paper, every row changes one thing.
    ours = configs[names.index("+ both, power-of-two divisor = Trio-ViT") :]
    for before, after in zip(ours, ours[1:]):
        assert sum(asdict(before)[key] != value for key, value in asdict(after).items()) == 1


def test_results_and_repeated_runs(tmp_path, monkeypatch):
    rows = {"ours": QuantizerConfig(), "paper": QuantizerConfig.trio_vit()}
    seen = []
    results = ablate(
        [subject()], tmp_path, rows=rows, seeds=2, calibration_images=4, progress=lambda *x: seen.append(x)
    )
    assert [(x.seed, x.row) for x in results] == [(0, "ours"), (0, "paper"), (1, "ours"), (1, "paper")]
    done = [x for x, _ in seen]
    assert done == sorted(done) and seen[-1][1].startswith("tiny, paper, 1: ")
    # By hand.
    tiny = subject()
    network = quantize(tiny.model, tiny.train.sample(4, 1), MEAN, STD, rows["paper"])
    classes = network.run(torch.from_numpy(tiny.test.native)).argmax(1)
    assert results[3].top1 == pytest.approx(float((classes.numpy() == tiny.test.labels).mean()))
    exact = FloatGraph.from_model(tiny.model).logits(normalise(tiny.test.native, MEAN, STD)).argmax(1)
    assert results[3].images == 12 and results[3].agreement == pytest.approx(float((classes == exact).double().mean()))

    def unexpected(*_: object) -> None:
        raise AssertionError("quantized again")

    monkeypatch.setattr(ablation, "quantize", unexpected)
    assert ablate([tiny], tmp_path, rows=rows, seeds=2, calibration_images=4) == results
    with pytest.raises(AssertionError, match="quantized again"):
        ablate([tiny], tmp_path, rows=rows, seeds=2, calibration_images=5)
