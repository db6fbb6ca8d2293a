"""What tests of rewritten networks have in common."""

from collections.abc import Iterator

import torch
from torch import Tensor

from compiler.batch import Batch
from compiler.shapes import infer_shapes
from compiler.spill import Reload, Spill
from quant.integer_network import AveragePool, IntegerNetwork, Node


def batch_of(network: IntegerNetwork, frames: int = 1) -> Batch:
    """The network as the compiler gets it."""
    return Batch.of(network, infer_shapes(network), frames)


def run_nodes(batch: Batch, image: Tensor) -> Iterator[tuple[Node, Tensor]]:
    """Every node of a batch of one frame and the codes that it makes of an image's codes."""
    codes = {batch.nodes[0].name: image}
    for node in batch.nodes[1:]:
        sources = [codes[name] for name in node.inputs]
        if isinstance(node, Spill):
            made = torch.cat([codes[name] for name in sorted(node.inputs, key=batch.first_channel.get)], 1)
        elif isinstance(node, Reload):
            (made,) = sources
        else:
            made = node.run(*([torch.cat(sources, 1)] if isinstance(node, AveragePool) else sources))
        codes[node.name] = made
        yield node, made
