"""The file of a network that was trained with quantization: safetensors with the facts about it beside them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from quant.graph import FloatGraph
from quant.models.checkpoint import CheckpointError, CheckpointInfo, parse_info
from quant.models.registry import build_model
from quant.qat.config import QatConfig
from quant.qat.network import QuantizedGraph
from quant.qat.rectification import rectified

__all__ = ["is_trained_checkpoint", "new_network", "read_trained", "save_trained"]

FORMAT = "vitsmith-qat-1"


def new_network(graph: FloatGraph, config: QatConfig, images: torch.Tensor, info: CheckpointInfo) -> QuantizedGraph:
    """A network that starts from a float one, with steps that fit what it makes of normalised images."""
    network = _network(graph, config, images, info)
    network.start(images)
    return network


def _network(graph: FloatGraph, config: QatConfig, images: torch.Tensor, info: CheckpointInfo) -> QuantizedGraph:
    if config.rectify is not None:
        graph = rectified(graph, images, centred=config.rectify == "centred")
    return QuantizedGraph(graph, config, info.std)


def save_trained(path: Path | str, network: QuantizedGraph, info: CheckpointInfo) -> None:
    """Write weights, steps, and zero-points (float32), `info`, and the configuration to one file, atomically."""
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    metadata = {"format": FORMAT, "info": json.dumps(asdict(info)), "config": json.dumps(asdict(network.config))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


def is_trained_checkpoint(path: Path | str) -> bool:
    """Whether a file was written by `save_trained`; False for anything else, or nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_trained(path: Path | str) -> tuple[QuantizedGraph, CheckpointInfo]:
    """Read a file written by `save_trained`; the network comes in evaluation mode.

    Raises
    ------
    CheckpointError : not a whole file of that kind.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); get it again") from error
    info = parse_info(path, metadata.get("info", ""))
    try:
        config = QatConfig(**json.loads(metadata.get("config", "")))
        model = build_model(info.model, info.num_classes, info.size).eval()
        # Any image will do: what depends on it is replaced.
        blank = torch.zeros(1, 3, info.size, info.size)
        network = _network(FloatGraph.from_model(model), config, blank, info)
        network.load_state_dict(tensors)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a whole network: {error}") from error
    return network.eval(), info
