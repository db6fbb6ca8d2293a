"""Maps in external memory, where scratchpads have no room for all that lives at once.

A map that is spilled is stored as it is made, and each of its readers loads it again, row by row, when it is whole. So
nothing in front of it lives together with what is behind it, and maps that a reader needs much later take no room.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from compiler.batch import Batch
from quant.integer_network import Conv, LinearAttention, Node

__all__ = ["Reload", "Spill", "cheapest_cut", "spilled"]

MUCH = 0.7  #: of the words that live at once: a cut is good if neither side has more


@dataclass(frozen=True, kw_only=True)
class Spill(Node):
    """Its input's rows to external memory; of several inputs, channels side by side."""


@dataclass(frozen=True, kw_only=True)
class Reload(Node):
    """A spilled map, for one reader."""


def spilled(batch: Batch, names: Iterable[str]) -> Batch:
    """The same network with the maps of some nodes (by their original names) in external memory.

    An attention of inputs in parts is spilled head by head.
    """
    nodes: list[Node] = []
    maps = {field: dict(getattr(batch, field)) for field in ("shapes", "names", "frame_of", "first_channel")}
    stored: dict[str, Spill] = {}  # by node

    def add(node: Node, like: str, **changes: object) -> None:
        nodes.append(node)
        for field, values in maps.items():
            values[node.name] = changes.get(field, values[like])

    for node in batch.nodes:
        loads = {name: f"{name} for {node.name}" for name in dict.fromkeys(node.inputs) if name in stored}
        for name, load in loads.items():
            add(Reload(name=load, inputs=(stored[name].name,)), name)
        node = replace(node, inputs=tuple(loads.get(name, name) for name in node.inputs))
        if batch.names[node.name] not in names:
            add(node, node.name)
            continue
        parts = _heads(node, batch) if isinstance(node, LinearAttention) else {0: node}
        shape = replace(batch.shapes[node.name], channels=batch.shapes[node.name].channels // len(parts))
        for first, part in parts.items():
            add(part, node.name, shapes=shape, first_channel=batch.first_channel[node.name] + first)
        stored[node.name] = Spill(name=f"{node.name} to memory", inputs=tuple(part.name for part in parts.values()))
        add(stored[node.name], node.name, shapes=batch.shapes[node.name], first_channel=0)
    return replace(batch, nodes=tuple(nodes), **maps)


def _heads(node: LinearAttention, batch: Batch) -> dict[int, LinearAttention]:
    """An attention for each input, by the first of its channels, in the order in which the inputs are made."""
    if len(node.inputs) == 1:
        return {0: node}
    heads = len(node.state_multiplier) // len(node.inputs)
    made = [other.name for other in batch.nodes if other.name in node.inputs]
    parts = {}
    for index in sorted(range(len(node.inputs)), key=lambda i: made.index(node.inputs[i])):
        own = slice(index * heads, (index + 1) * heads)
        channels = slice(own.start * node.head_dim, own.stop * node.head_dim)
        scales = ("state_multiplier", "state_shift", "sum_multiplier", "sum_shift")
        parts[channels.start] = replace(
            node,
            name=f"{node.name}[{index}]",
            inputs=(node.inputs[index],),
            input_zero=(node.input_zero[index],),
            requant=node.requant.part(channels),
            **{scale: getattr(node, scale)[own] for scale in scales},
        )
    return parts


def cheapest_cut(batch: Batch, living: Mapping[str, int]) -> frozenset[str]:
    """Original names of the nodes whose maps, once spilled, part the `living` words of a frame (by map) best: the
    smallest maps that leave not much on either side. Empty if there are none."""
    frames = {batch.frame_of[name] for name in living} - {None}
    if not frames:
        return frozenset()
    frame = min(frames)
    nodes = [node for node in batch.nodes if batch.frame_of[node.name] == frame]
    places = {node.name: index for index, node in enumerate(nodes)}
    readers: dict[str, list[int]] = {node.name: [] for node in nodes}
    for node in batch.nodes:
        for name in set(node.inputs) & places.keys():
            readers[name].append(places.get(node.name, len(nodes)))
    candidates = {node.name for node in nodes if _can_be_spilled(node, nodes, batch)}
    good: list[tuple[bool, float, frozenset[str]]] = []
    total = sum(words for name, words in living.items() if name in places)
    for name in sorted(candidates, key=places.get):
        place = places[name]
        across = {
            node.name
            for node in nodes[:place]
            if not isinstance(node, Spill) and max(readers[node.name], default=-1) > place
        }
        if not across <= candidates:
            continue
        cut = across | {name}
        left = {other: words for other, words in living.items() if other in places and other not in cut}
        before = sum(words for other, words in left.items() if places[other] < place)
        most = max(before, sum(left.values()) - before)
        if most < total:
            size = sum(_elements(batch, other) for other in cut)
            enough = most <= MUCH * total
            good.append((not enough, size if enough else most, frozenset(batch.names[other] for other in cut)))
    return min(good, key=lambda choice: choice[:2], default=(True, 0.0, frozenset()))[2]


def _can_be_spilled(node: Node, nodes: list[Node], batch: Batch) -> bool:
    """Whether it makes a whole map that is not in external memory yet."""
    others = [n for n in nodes if batch.names[n.name] == batch.names[node.name]]
    return isinstance(node, (Conv, LinearAttention)) and others == [node]


def _elements(batch: Batch, name: str) -> int:
    shape = batch.shapes[name]
    return shape.channels * shape.height * shape.width
