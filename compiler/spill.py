"""Maps in external memory, where scratchpads have no room for all that lives at once.

A map that is spilled is stored as it is made, and each of its readers loads it again, row by row, when it is whole. So
nothing in front of it lives together with what is behind it, and maps that a reader needs much later take no room.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from compiler.batch import Batch
from compiler.buffers import Buffer
from compiler.parts import can_be_cut, chunk_channels, parts_of, way_to
from compiler.results import word_bytes
from compiler.shapes import Shape
from hw.config import AcceleratorConfig
from hw.control.descriptors import LoadBody
from quant.integer_network import Conv, LinearAttention, Node

__all__ = ["Reload", "Spill", "cheapest_cut", "spilled"]

LONGEST_ROW = (1 << LoadBody.as_shape()["row_bytes"].width) - 1  #: bytes that a LOAD takes
MUCH = 0.7  #: of the words that live at once: a cut is good if neither side has more


@dataclass(frozen=True, kw_only=True)
class Spill(Node):
    """Its input's rows to external memory; of several inputs, channels side by side."""


@dataclass(frozen=True, kw_only=True)
class Reload(Node):
    """A spilled map, for one reader."""


def spilled(batch: Batch, names: Iterable[str], config: AcceleratorConfig) -> Batch:
    """The same network with the maps of some nodes (by their original names) in external memory.

    An attention of inputs in parts is spilled head by head, a depthwise convolution in chunks of channels, as is what
    it alone reads.
    """
    rewriting = _Rewriting(batch)
    parts = {node.name: _parts(node, batch, config) for node in batch.nodes if batch.names[node.name] in names}
    with_others = {part.like for name, chosen in parts.items() for part in chosen if part.like != name}
    for node in batch.nodes:
        if node.name in with_others:
            continue
        if node.name in parts:
            rewriting.spill(node, parts[node.name])
        else:
            rewriting.add(_Part(node, node.name, 0, batch.shapes[node.name].channels))
    return rewriting.batch


@dataclass(frozen=True)
class _Part:
    """A node that makes some channels of the map of the one that it is `like`."""

    node: Node
    like: str
    first: int
    channels: int


class _Rewriting:
    """Nodes so far, and what is known of them."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._nodes: list[Node] = []
        self._shapes, self._names, self._frame_of, self._first = ({} for _ in range(4))
        self._stored: dict[str, str] = {}  # spill of each spilled map

    @property
    def batch(self) -> Batch:
        """The rewritten network."""
        return Batch(self._batch.frames, tuple(self._nodes), self._shapes, self._names, self._frame_of, self._first)

    def add(self, part: _Part) -> None:
        """Append a node, behind what loads its inputs again."""
        inputs = []
        for name in part.node.inputs:
            if name in self._stored:
                load = Reload(name=f"{name} for {part.node.name}", inputs=(self._stored[name],))
                if load.name not in self._names:
                    self._append(load, name)
                name = load.name
            inputs.append(name)
        self._append(replace(part.node, inputs=tuple(inputs)), part.like, part.first, part.channels)

    def spill(self, node: Node, parts: list[_Part]) -> None:
        """Append a node in parts, and what stores their maps."""
        for part in parts:
            self.add(part)
        spill = Spill(name=f"{node.name} to memory", inputs=tuple(p.node.name for p in parts if p.like == node.name))
        self._append(spill, node.name)
        self._stored[node.name] = spill.name

    def _append(self, node: Node, like: str, first: int = 0, channels: int | None = None) -> None:
        batch, name = self._batch, node.name
        self._nodes.append(node)
        shape = batch.shapes[like]
        self._shapes[name] = replace(shape, channels=shape.channels if channels is None else channels)
        self._names[name], self._frame_of[name] = batch.names[like], batch.frame_of[like]
        self._first[name] = batch.first_channel[like] + first


def _parts(node: Node, batch: Batch, config: AcceleratorConfig) -> list[_Part]:
    """What makes the map of a node that is spilled, in order: its parts, each behind the parts that only it reads."""
    if isinstance(node, LinearAttention):
        return _heads(node, batch)
    channels = batch.shapes[node.name].channels
    way = _way(node, batch, config)
    if not way:
        return [_Part(node, node.name, 0, channels)]
    width = chunk_channels(config)
    chunks = zip(*(parts_of(maker, width, way) for maker in way), strict=True)
    return [
        _Part(part, maker.name, index * width, len(part.weight))
        for index, chunk in enumerate(chunks)
        for maker, part in zip(way, chunk, strict=True)
    ]


def _way(node: Node, batch: Batch, config: AcceleratorConfig) -> list[Conv]:
    """A depthwise convolution and what makes its input, if they can be cut by channels."""
    width = chunk_channels(config)
    if not (isinstance(node, Conv) and node.is_depthwise and len(node.weight) > width):
        return []
    makers = way_to(node, {other.name: other for other in batch.nodes})
    way = [*makers, node]
    return way if makers and all(can_be_cut(maker, width) for maker in way) else []


def _heads(node: LinearAttention, batch: Batch) -> list[_Part]:
    """An attention for each input, in the order in which the inputs are made."""
    heads, d = len(node.state_multiplier) // len(node.inputs), node.head_dim
    made = [other.name for other in batch.nodes if other.name in node.inputs]
    scales = ("state_multiplier", "state_shift", "sum_multiplier", "sum_shift")
    parts = []
    for index in sorted(range(len(node.inputs)), key=lambda i: made.index(node.inputs[i])):
        own = slice(index * heads, (index + 1) * heads)
        part = replace(
            node,
            name=f"{node.name}[{index}]",
            inputs=(node.inputs[index],),
            input_zero=(node.input_zero[index],),
            requant=node.requant.part(slice(own.start * d, own.stop * d)),
            **{scale: getattr(node, scale)[own] for scale in scales},
        )
        parts.append(_Part(part, node.name, own.start * d, heads * d))
    return parts


def cheapest_cut(batch: Batch, living: Mapping[str, Buffer], config: AcceleratorConfig) -> frozenset[str]:
    """Original names of the nodes whose maps, once spilled, part the `living` buffers of a frame best: the smallest
    maps that leave not much on either side. Empty if there are none."""
    frames = {batch.frame_of[name] for name in living} - {None}
    if not frames:
        return frozenset()
    cuts = _Cuts(batch, min(frames), living, config)
    return min(cuts.all(), key=lambda choice: choice[:2], default=(True, 0.0, frozenset()))[2]


class _Cuts:
    """Ways to cut a frame in two."""

    def __init__(self, batch: Batch, frame: int, living: Mapping[str, Buffer], config: AcceleratorConfig) -> None:
        self._batch, self._config = batch, config
        self._nodes = [node for node in batch.nodes if batch.frame_of[node.name] == frame]
        self._places = {node.name: index for index, node in enumerate(self._nodes)}
        self._living = {name: buffer for name, buffer in living.items() if name in self._places}
        self._readers: dict[str, list[Node]] = {node.name: [] for node in self._nodes}
        for node in batch.nodes:
            for name in set(node.inputs) & self._places.keys():
                self._readers[name].append(node)
        originals = Counter(batch.names[node.name] for node in self._nodes)
        self._candidates = [
            node
            for node in self._nodes
            if isinstance(node, (Conv, LinearAttention))
            and originals[batch.names[node.name]] == 1
            and _row_bytes(batch.shapes[node.name], config) <= LONGEST_ROW
        ]

    def all(self) -> Iterator[tuple[bool, float, frozenset[str]]]:
        """Whether a cut is bad, how bad, and the original names of its nodes."""
        total = sum(buffer.words for buffer in self._living.values())
        possible = {node.name for node in self._candidates}
        for node in self._candidates:
            cut = {node.name, *self._across(node)}
            most = max(self._left(node, cut))
            if cut <= possible and most < total:
                bad = most > MUCH * total
                size = sum(_elements(self._batch.shapes[name]) for name in cut)
                yield bad, most if bad else size, frozenset(self._batch.names[name] for name in cut)

    def _across(self, node: Node) -> list[str]:
        """Maps that are made before a node's, and read behind it."""
        place = self._places[node.name]
        return [
            other.name
            for other in self._nodes[:place]
            if not isinstance(other, Spill)
            and any(self._places.get(reader.name, len(self._nodes)) > place for reader in self._readers[other.name])
        ]

    def _left(self, node: Node, cut: set[str]) -> tuple[int, int]:
        """Words that live before and behind a cut: of its maps, a row, and what their readers need at a time."""
        way = _way(node, self._batch, self._config)
        chunks = len(parts_of(node, chunk_channels(self._config), way)) if way else 1
        own = {maker.name for maker in way}
        before = behind = 0
        for name, buffer in self._living.items():
            if name in cut:
                before += buffer.row_stride
                behind += buffer.row_stride * max(map(_rows_at_a_time, self._readers[name]))
            elif self._places[name] < self._places[node.name]:
                before += buffer.words // (chunks if name in own else 1)
            else:
                behind += buffer.words
        return before, behind


def _row_bytes(shape: Shape, config: AcceleratorConfig) -> int:
    return ceil(shape.channels / config.in_lanes) * ceil(shape.width / config.pixels) * word_bytes(config)


def _rows_at_a_time(reader: Node) -> int:
    return reader.kernel if isinstance(reader, Conv) else 1


def _elements(shape: Shape) -> int:
    return shape.channels * shape.height * shape.width
