"""Several frames as one network, so that they overlap and share what is loaded once: weights of the classifier."""

from dataclasses import dataclass, replace

from compiler.errors import CompileError, Obstacle
from compiler.shapes import Shape
from quant.integer_network import AveragePool, IntegerNetwork, Node

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """The network of a run of `frames` images.

    Every node up to the pooling exists once per frame. The pooling exists once, and reads one map per frame; what
    follows it, the fully connected layers, works on maps of one row with a pixel for each frame, so that a tile of
    weights serves all of them at once.
    """

    frames: int
    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    names: dict[str, str]  #: of the original nodes
    frame_of: dict[str, int | None]  #: None: a pixel for each frame
    first_channel: dict[str, int]  #: of the original node's map: 0, unless nodes are parts

    @classmethod
    def of(cls, network: IntegerNetwork, single: dict[str, Shape], frames: int) -> "Batch":
        """Repeat a network's nodes, given their shapes. Raises `CompileError` if there is no pooling to join them."""
        pooled = [i for i, node in enumerate(network.nodes) if isinstance(node, AveragePool)]
        if frames > 1 and len(pooled) != 1:
            obstacle = Obstacle(network.nodes[-1].name, "no single pooling in front of it", "compile with a batch of 1")
            raise CompileError([obstacle])
        split = pooled[0] if pooled else len(network.nodes)
        copies = {
            node.name: [f"{node.name}@{f}" if frames > 1 else node.name for f in range(frames)]
            for node in network.nodes[:split]
        }
        nodes, shapes, names, frame_of = [], {}, {}, {}

        def add(node: Node, shape: Shape, original: Node, frame: int | None) -> None:
            nodes.append(node)
            shapes[node.name], names[node.name], frame_of[node.name] = shape, original.name, frame

        for f in range(frames):
            for node in network.nodes[:split]:
                inputs = tuple(copies[name][f] for name in node.inputs)
                add(replace(node, name=copies[node.name][f], inputs=inputs), single[node.name], node, f)
        for node in network.nodes[split:]:
            inputs = tuple(copy for name in node.inputs for copy in copies.get(name, [name]))
            add(replace(node, inputs=inputs), replace(single[node.name], width=frames), node, None)
        return cls(frames, tuple(nodes), shapes, names, frame_of, dict.fromkeys(names, 0))
