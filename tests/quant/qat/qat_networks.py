"""Small networks that learn with few bits, from random weights."""

from dataclasses import replace

import torch

from quant.data import normalise
from quant.data.noise import noise_images
from quant.graph import FloatGraph
from quant.models.checkpoint import CheckpointInfo
from quant.models.random_weights import random_model
from quant.models.registry import MODELS
from quant.qat.checkpoint import new_network
from quant.qat.config import QatConfig
from quant.qat.network import QuantizedGraph

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.25)
SIZES = {"b0": 64, "deit-cifar": 32, "deit-cifar-distilled": 32, "swin-cifar": 32}
INFO = CheckpointInfo(
    model="deit-cifar", num_classes=10, size=32, mean=MEAN, std=STD, data="noise", top1=None, seed=0, command=""
)


def images(name: str, count: int = 4) -> torch.Tensor:
    return normalise(noise_images(count, SIZES[name]), MEAN, STD)


def network(name: str, **settings: object) -> QuantizedGraph:
    model = random_model(MODELS[name].replace(num_classes=10), SIZES[name], MEAN, STD)
    info = replace(INFO, model=name, size=SIZES[name])
    return new_network(FloatGraph.from_model(model), QatConfig(**settings), images(name), info)
