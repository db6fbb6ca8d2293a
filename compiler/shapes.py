"""Shapes of every tensor of an integer network."""

from dataclasses import dataclass
from math import ceil

from compiler.errors import CompileError, Obstacle
from hw.config import AcceleratorConfig
from quant.integer_network import (
    AveragePool,
    Conv,
    Input,
    IntegerNetwork,
    LinearAttention,
    Merge,
    Node,
    PatchConv,
    Select,
    SoftmaxAttention,
    Tokens,
)

__all__ = ["Shape", "head_tiles", "infer_shapes"]


@dataclass(frozen=True)
class Shape:
    """Channels and size of a feature map."""

    channels: int
    height: int
    width: int


def head_tiles(head_dim: int, config: AcceleratorConfig) -> int:
    """Ti x To tiles of the state of an attention's head, those of its row sums included."""
    return (1 + ceil(head_dim / config.out_lanes)) * (head_dim // config.in_lanes)


def infer_shapes(network: IntegerNetwork) -> dict[str, Shape]:
    """Shape of every node's tensor. Raises `CompileError` where an input does not have the expected channels."""
    shapes: dict[str, Shape] = {}
    for node in network.nodes:
        if isinstance(node, Input):
            shapes[node.name] = Shape(node.channels, node.size, node.size)
            continue
        source = shapes[node.inputs[0]]
        channels, height, width = source.channels, source.height, source.width
        if isinstance(node, Conv):
            expected = node.weight.shape[1] * node.groups
            if expected != channels:
                raise CompileError(
                    [Obstacle(node.name, f"expects {expected} channels, gets {channels}", "quantize again")]
                )
            channels = node.weight.shape[0]
            height, width = (height - 1) // node.stride + 1, (width - 1) // node.stride + 1
        elif isinstance(node, LinearAttention):
            channels = sum(shapes[name].channels for name in node.inputs) // 3
        elif isinstance(node, AveragePool):
            height = width = 1
        else:
            channels, height, width = _transformer_shape(node, source)
        shapes[node.name] = Shape(channels, height, width)
    return shapes


def _transformer_shape(node: Node, source: Shape) -> tuple[int, int, int]:
    channels, height, width = source.channels, source.height, source.width
    if isinstance(node, PatchConv):
        return len(node.weight), height // node.kernel, width // node.kernel
    if isinstance(node, Tokens):
        return channels, 1, node.tokens.shape[1] + height * width
    if isinstance(node, Merge):
        return 4 * channels, height // 2, width // 2
    if isinstance(node, Select):
        return len(node.tokens) * channels, 1, 1
    if isinstance(node, SoftmaxAttention):
        return channels // 3, height, width
    return channels, height, width
