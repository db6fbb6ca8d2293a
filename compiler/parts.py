"""Maps in parts, where scratchpads have no room for them: attention head by head, pooling channel by channel."""

from collections.abc import Iterable
from dataclasses import replace
from math import lcm

from compiler.batch import Batch
from hw.config import AcceleratorConfig
from quant.integer_network import AveragePool, Conv, LinearAttention, Node

__all__ = ["can_be_cut", "chunk_channels", "in_parts", "parts_of", "way_to"]

CHUNK_TILES = 4  #: output tiles per instruction where whole maps are cut by channels: long enough to hide issue latency


def chunk_channels(config: AcceleratorConfig) -> int:
    """Channels that one instruction makes of a whole map."""
    return max(lcm(config.in_lanes, config.out_lanes), CHUNK_TILES * config.out_lanes)


def in_parts(batch: Batch, config: AcceleratorConfig) -> Batch:
    """The same network, with some maps as several that have a part of the channels each.

    These are q, k, v of every head, what is aggregated of them, and chunks of what is pooled. Each part is used up
    before the next one is made, so that only one of them lives. Results are the same, and so is what is streamed, but
    for zeros where tiles are wider than parts; the order of instructions is less free. Maps that others read too stay
    whole.
    """
    nodes = {node.name: node for node in batch.nodes}
    ways: dict[str, dict[str, list[Conv]]] = {}  # the parts of every map that a node alone reads, directly or not
    for node in batch.nodes:
        if isinstance(node, (LinearAttention, AveragePool)):
            width = 3 * node.head_dim if isinstance(node, LinearAttention) else chunk_channels(config)
            way = way_to(node, nodes)
            if all(can_be_cut(maker, width) for maker in way):
                ways[node.name] = {maker.name: parts_of(maker, width, way) for maker in way}
    hidden = {name for way in ways.values() for name in way}
    made: list[Node] = []
    shapes, names, frame_of, first_channel = ({} for _ in range(4))

    def add(node: Node, original: str, first: int, channels: int) -> None:
        made.append(node)
        shapes[node.name] = replace(batch.shapes[original], channels=channels)
        names[node.name], frame_of[node.name] = batch.names[original], batch.frame_of[original]
        first_channel[node.name] = first

    for node in batch.nodes:
        if node.name in hidden:
            continue
        if way := ways.get(node.name):
            firsts = dict.fromkeys(way, 0)
            for parts in zip(*way.values(), strict=True):
                for original, part in zip(way, parts, strict=True):
                    add(part, original, firsts[original], len(part.weight))
                    firsts[original] += len(part.weight)
            node = _reader(node, way)
        add(node, node.name, 0, batch.shapes[node.name].channels)
    return replace(batch, nodes=tuple(made), shapes=shapes, names=names, frame_of=frame_of, first_channel=first_channel)


def way_to(reader: Node, nodes: dict[str, Node]) -> list[Node]:
    """Makers of a node's inputs, and of theirs as long as channels stay apart, in order; none if others read them."""
    way, names = set(), list(reader.inputs)
    while names:
        node = nodes[names.pop()]
        way.add(node.name)
        if isinstance(node, Conv) and node.groups > 1:
            names.extend(node.inputs)
    readers = {node.name for node in nodes.values() if way.intersection(node.inputs)}
    return [node for name, node in nodes.items() if name in way] if readers <= way | {reader.name} else []


def can_be_cut(node: Node, width: int) -> bool:
    """Whether parts of so many channels are convolutions of their own."""
    if not isinstance(node, Conv) or len(node.inputs) != 1:
        return False
    return node.groups == 1 or not (len(node.weight) % width or width % (len(node.weight) // node.groups))


def parts_of(node: Conv, width: int, way: Iterable[Node]) -> list[Conv]:
    """Convolutions for `width` channels each, which read the same parts of inputs on the way."""
    cut = {maker.name for maker in way}
    outputs = len(node.weight)
    return [
        replace(
            node,
            name=f"{node.name}[{index}]",
            inputs=tuple(f"{name}[{index}]" if name in cut else name for name in node.inputs),
            weight=node.weight[first : first + width],
            requant=node.requant.part(slice(first, first + width)),
            **(_part_of_groups(node, slice(first, first + width)) if node.groups > 1 else {}),
        )
        for index, first in enumerate(range(0, outputs, width))
    ]


def _part_of_groups(node: Conv, channels: slice) -> dict[str, object]:
    """Fields of a part of a convolution that has as many inputs as outputs, in groups."""
    groups = node.groups * (channels.stop - channels.start) // len(node.weight)
    return {"pad_value": node.pad_value[channels], "groups": groups}


def _reader(node: LinearAttention | AveragePool, way: dict[str, list[Conv]]) -> Node:
    """The node with the parts of its inputs as inputs."""
    inputs = tuple(part.name for name in node.inputs for part in way[name])
    if isinstance(node, AveragePool):
        return replace(node, inputs=inputs)
    zeros = tuple(zero for name, zero in zip(node.inputs, node.input_zero, strict=True) for _ in range(len(way[name])))
    return replace(node, inputs=inputs, input_zero=zeros)
