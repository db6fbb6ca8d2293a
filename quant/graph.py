"""A float EfficientViT as a flat list of operations, one for each node that its integer network will have.

Calibration, quantization and comparison all walk this list, so node names are decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.models.efficientvit import (
    ConvLayer,
    DSConv,
    EfficientViT,
    EfficientViTBlock,
    LinearLayer,
    LiteMLA,
    MBConv,
    ResidualBlock,
)
from quant.models.fold import fold_batch_norms

__all__ = ["INPUT", "FloatAttention", "FloatConv", "FloatGraph", "FloatLayerNorm", "FloatNode", "FloatPool"]

INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class FloatNode:
    """One operation on float tensors (N, C, H, W); `inputs` and `name` are those of the integer node."""

    name: str
    inputs: tuple[str, ...]

    def run(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Compute "output" and the inner tensors that quantization has to know about."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FloatConv(FloatNode):
    """Convolution, then hard swish, ReLU6, or the addition of the second input. Inner tensor: "linear", before those.

    Hard swish needs a table; ReLU6 is what codes do that stand for 0 to 6 at most and clamp.
    """

    weight: Tensor  #: (O, C/groups, k, k)
    bias: Tensor  #: (O,)
    stride: int = 1
    groups: int = 1
    activation: bool = False
    relu6: bool = False

    @property
    def is_depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups > 1 and self.weight.shape[1] == 1 and self.groups == self.weight.shape[0]

    def run(self, x: Tensor, residual: Tensor | None = None) -> dict[str, Tensor]:
        padding = self.weight.shape[-1] // 2
        linear = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        output = F.hardswish(linear) if self.activation else F.relu6(linear) if self.relu6 else linear
        return {"linear": linear, "output": output if residual is None else output + residual}


@dataclass(frozen=True, kw_only=True)
class FloatAttention(FloatNode):
    """Linear attention on qkv tensors."""

    head_dim: int
    epsilon: float

    def run(self, *inputs: Tensor) -> dict[str, Tensor]:
        x = torch.cat(inputs, 1)
        n, _, h, w = x.shape
        q, k, v = x.reshape(n, -1, 3, self.head_dim, h * w).unbind(2)
        q, k = q.relu(), k.relu()
        state, sums = k @ v.transpose(-1, -2), k.sum(-1)
        quotient = (state.transpose(-1, -2) @ q) / (sums.unsqueeze(-2) @ q + self.epsilon)
        return {"output": quotient.reshape(n, -1, h, w)}


@dataclass(frozen=True, kw_only=True)
class FloatPool(FloatNode):
    """Mean over all pixels."""

    def run(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": x.mean((2, 3), keepdim=True)}


@dataclass(frozen=True, kw_only=True)
class FloatLayerNorm(FloatNode):
    """LayerNorm over channels, then hard swish. Inner tensor: "linear", between the two."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def run(self, x: Tensor) -> dict[str, Tensor]:
        linear = F.layer_norm(x[:, :, 0, 0], (x.shape[1],), self.weight, self.bias, self.epsilon)[:, :, None, None]
        return {"linear": linear, "output": F.hardswish(linear)}


@dataclass(frozen=True)
class FloatGraph:
    """Operations in execution order; the last one makes the class scores.

    `readers` tells, for every tensor, which nodes read it.
    """

    nodes: tuple[FloatNode, ...]
    readers: Mapping[str, tuple[FloatNode, ...]] = field(init=False)

    def __post_init__(self) -> None:
        names = (INPUT, *(node.name for node in self.nodes))
        readers = {name: tuple(node for node in self.nodes if name in node.inputs) for name in names}
        object.__setattr__(self, "readers", readers)

    @classmethod
    def from_model(cls, model: EfficientViT | FloatGraph) -> FloatGraph:
        """Flatten a model; batch norms are folded into the convolutions. A graph is returned as it is."""
        if isinstance(model, FloatGraph):
            return model
        return cls(tuple(_Flattener(fold_batch_norms(model)).nodes))

    def blocks(self) -> list[tuple[FloatNode, ...]]:
        """The nodes in blocks of one input each: MBConv, DSConv, or attention; in the head, a linear layer with what
        pools or normalises its output."""
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
        """Class scores (N, classes)."""
        for _, result in self.run(x):
            output = result["output"]
        return output[:, :, 0, 0]


class _Flattener:
    """Walks the modules of a folded model and appends nodes; methods return the name of the tensor they make."""

    def __init__(self, model: EfficientViT) -> None:
        self.nodes: list[FloatNode] = []
        x = INPUT
        for index, block in enumerate(model.backbone.input_stem.op_list):
            x = self._layer("stem.conv", block, x) if index == 0 else self._block(f"stem.{index}", block, x)
        for stage, blocks in enumerate(model.backbone.stages, start=1):
            for index, block in enumerate(blocks.op_list):
                x = self._block(f"stages.{stage}.{index}", block, x)
        self._head(model.head.op_list, x)

    def _head(self, layers: nn.ModuleList, x: str) -> None:
        convolution, _, hidden, classifier = layers
        x = self._layer("head.conv", convolution, x)
        self.nodes.append(FloatPool(name="head.pool", inputs=(x,)))
        x = self._linear("head.fc1", hidden, "head.pool")
        norm = hidden.norm
        self.nodes.append(
            FloatLayerNorm(
                name="head.norm",
                inputs=(x,),
                weight=norm.weight.detach(),
                bias=norm.bias.detach(),
                epsilon=norm.eps,
            )
        )
        self._linear("head.fc2", classifier, "head.norm")

    def _block(self, name: str, block: nn.Module, x: str) -> str:
        if isinstance(block, EfficientViTBlock):
            x = self._attention(f"{name}.attention", block.context_module.main, x)
            return self._block(f"{name}.local", block.local_module, x)
        if isinstance(block, ResidualBlock):
            return self._convolutions(name, block.main, x, x if block.shortcut is not None else None)
        raise TypeError(f"{name} is a {type(block).__name__}, which is not a block of an EfficientViT classifier")

    def _convolutions(self, name: str, block: DSConv | MBConv, x: str, residual: str | None) -> str:
        if isinstance(block, MBConv):
            x = self._layer(f"{name}.inverted", block.inverted_conv, x)
        x = self._layer(f"{name}.depth", block.depth_conv, x)
        return self._layer(f"{name}.point", block.point_conv, x, residual)

    def _attention(self, name: str, block: LiteMLA, x: str) -> str:
        qkv = self._layer(f"{name}.qkv", block.qkv, x)
        depth, group = block.aggreg[0]
        aggregated = self._convolution(f"{name}.depth", depth, qkv)
        aggregated = self._convolution(f"{name}.group", group, aggregated)
        self.nodes.append(
            FloatAttention(
                name=f"{name}.linear",
                inputs=(qkv, aggregated),
                head_dim=block.dim,
                epsilon=block.eps,
            )
        )
        return self._layer(f"{name}.proj", block.proj, f"{name}.linear", x)

    def _layer(self, name: str, layer: ConvLayer, x: str, residual: str | None = None) -> str:
        return self._convolution(name, layer.conv, x, residual, activation=layer.act is not None)

    def _convolution(
        self, name: str, conv: nn.Conv2d, x: str, residual: str | None = None, *, activation: bool = False
    ) -> str:
        weight = conv.weight.detach()
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        inputs = (x,) if residual is None else (x, residual)
        self.nodes.append(
            FloatConv(
                name=name,
                inputs=inputs,
                weight=weight,
                bias=bias,
                stride=conv.stride[0],
                groups=conv.groups,
                activation=activation,
            )
        )
        return name

    def _linear(self, name: str, layer: LinearLayer, x: str) -> str:
        weight = layer.linear.weight.detach()[:, :, None, None]
        bias = torch.zeros(len(weight)) if layer.linear.bias is None else layer.linear.bias.detach()
        self.nodes.append(FloatConv(name=name, inputs=(x,), weight=weight, bias=bias))
        return name
