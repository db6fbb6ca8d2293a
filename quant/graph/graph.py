"""Float graphs: operations in order, who reads what, and how to run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quant.graph.deit import deit_nodes
from quant.graph.efficientvit import efficientvit_nodes
from quant.graph.nodes import INPUT, FloatConv, FloatNode
from quant.graph.swin import swin_nodes
from quant.models.deit import DeiT
from quant.models.registry import Model
from quant.models.swin import Swin

__all__ = ["FloatGraph"]


@dataclass(frozen=True)
class FloatGraph:
    """Operations in execution order; the last one makes the class scores, or features of all tokens.

    `readers` tells, for every tensor, which nodes read it.
    """

    nodes: tuple[FloatNode, ...]
    readers: Mapping[str, tuple[FloatNode, ...]] = field(init=False)

    def __post_init__(self) -> None:
        names = (INPUT, *(node.name for node in self.nodes))
        readers = {name: tuple(node for node in self.nodes if name in node.inputs) for name in names}
        object.__setattr__(self, "readers", readers)

    @classmethod
    def from_model(cls, model: Model | FloatGraph) -> FloatGraph:
        """Flatten a model; batch norms are folded into the convolutions. A graph is returned as it is."""
        if isinstance(model, FloatGraph):
            return model
        if isinstance(model, DeiT):
            return cls(tuple(deit_nodes(model)))
        if isinstance(model, Swin):
            return cls(tuple(swin_nodes(model)))
        return cls(tuple(efficientvit_nodes(model)))

    def to(self, device: torch.device | str) -> FloatGraph:
        """The same graph with its tensors on another device."""
        moved = []
        for node in self.nodes:
            tensors = {name: value.to(device) for name, value in vars(node).items() if isinstance(value, Tensor)}
            moved.append(replace(node, **tensors))
        return FloatGraph(tuple(moved))

    def blocks(self) -> list[tuple[FloatNode, ...]]:
        """The nodes in blocks of one input each: MBConv, DSConv, attention, or MLP; in the head, a linear layer with
        what pools or normalises its output."""
        blocks: list[list[FloatNode]] = []
        last = None
        for node in self.nodes:
            name = node.name.rpartition(".")[0]
            if name == last and not (name == "head" and isinstance(node, FloatConv)):
                blocks[-1].append(node)
            else:
                blocks.append([node])
            last = name
        return [tuple(block) for block in blocks]

    @torch.no_grad()
    def run(self, x: Tensor) -> Iterator[tuple[FloatNode, dict[str, Tensor]]]:
        """Yield each node with its tensors, in order, for normalised images (N, 3, H, W)."""
        yield from self.run_block(self.nodes, x)

    @torch.no_grad()
    def run_block(self, block: Sequence[FloatNode], x: Tensor) -> Iterator[tuple[FloatNode, dict[str, Tensor]]]:
        """Yield the nodes of a block with their tensors, given its input (N, C, H, W)."""
        live = {block[0].inputs[0]: x}
        waiting = {name: len(nodes) for name, nodes in self.readers.items()}
        for node in block:
            result = node.run(*(live[name] for name in node.inputs))
            live[node.name] = result["output"]
            yield node, result
            for name in node.inputs:
                waiting[name] -= 1
                if not waiting[name]:
                    del live[name]

    def logits(self, x: Tensor) -> Tensor:
        """Class scores (N, classes), or features of the class token (N, C)."""
        for _, result in self.run(x):
            output = result["output"]
        return output[:, :, 0, 0]
