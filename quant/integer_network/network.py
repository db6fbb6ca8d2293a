"""Networks of nodes, and their files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant.integer_network.checks import IntegerNetworkError
from quant.integer_network.nodes import AveragePool, Conv, Input, LayerNorm, LinearAttention, Node, Width
from quant.integer_network.requant import Requant
from quant.integer_network.transformer import Merge, PatchConv, Rectify, Select, SoftmaxAttention, Tokens
from quant.numerics import Operand

__all__ = ["IntegerNetwork"]

FORMAT = "vitsmith-integer-network"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class IntegerNetwork:
    """Nodes in execution order; the first is the `Input`, the last makes the class scores, or features of all tokens
    (signed, 16 bits).

    `info` is free-form provenance (model, data set, calibration); nothing in it changes a result.
    """

    nodes: tuple[Node, ...]
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if not isinstance(node, Node):
                raise IntegerNetworkError(f"a {type(node).__name__} is not a node")
            for name in node.inputs:
                if name not in known:
                    raise IntegerNetworkError(f"node '{node.name}' reads '{name}', which no earlier node makes")
            if node.name in known:
                raise IntegerNetworkError(f"two nodes are called '{node.name}'; names must be unique")
            known.add(node.name)
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise IntegerNetworkError("the first node must be the Input")
        self.widths()

    def widths(self) -> dict[str, Width]:
        """Of the codes of every tensor, by name."""
        found: dict[str, Width] = {}
        for node in self.nodes:
            found[node.name] = node.width([found[name] for name in node.inputs])
        return found

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node is called '{name}'")

    def to(self, device: torch.device | str) -> "IntegerNetwork":
        """The same network with its tensors on another device, for images there; it makes the same codes."""
        return IntegerNetwork(tuple(_moved(node, device) for node in self.nodes), self.info)

    @property
    def input(self) -> Input:
        """The input node."""
        return self.nodes[0]

    def run(self, images: Tensor, *, trace: bool = False) -> Tensor | dict[str, Tensor]:
        """Compute class scores (N, classes) or features of the class token (N, C), int32, of uint8 images (N, H, W, 3).

        With `trace`, return every node's codes by name instead (int32, (N, C, H, W)).
        """
        size = self.input.size
        if images.dtype != torch.uint8 or images.shape[1:] != (size, size, self.input.channels):
            raise IntegerNetworkError(
                f"images must be uint8 (N, {size}, {size}, {self.input.channels}), "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        readers: dict[str, int] = {}
        for node in self.nodes:
            for name in node.inputs:
                readers[name] = readers.get(name, 0) + 1
        live = {self.nodes[0].name: self.nodes[0].run(images.permute(0, 3, 1, 2))}
        for node in self.nodes[1:]:
            live[node.name] = node.run(*(live[name] for name in node.inputs))
            for name in node.inputs:
                readers[name] -= 1
                if not readers[name] and not trace:
                    live.pop(name, None)
        return live if trace else live[self.nodes[-1].name][:, :, 0, 0]

    def save(self, path: Path) -> None:
        """Write one safetensors file: tensors by 'node/field', everything else as JSON in its metadata."""
        tensors: dict[str, Tensor] = {}
        records = [_encode(node, node.name, tensors) for node in self.nodes]
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "info": dict(self.info),
            "nodes": records,
        }
        # A file is either the old one or the new one, never half of it.
        temporary = Path(f"{path}.partial")
        save_file(tensors, temporary, metadata={"network": json.dumps(document, sort_keys=True)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "IntegerNetwork":
        """Read a file written by `save`. Raises `IntegerNetworkError` for anything else."""
        try:
            with safe_open(path, "pt") as file:
                document = json.loads((file.metadata() or {}).get("network", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise IntegerNetworkError(f"{path}: not a readable integer network ({error})") from error
        if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (
            FORMAT,
            FORMAT_VERSION,
        ):
            raise IntegerNetworkError(f"{path}: not an integer network of version {FORMAT_VERSION}; quantize again")
        name = "the list of nodes"
        try:
            nodes = []
            for record in document["nodes"]:
                name = record["name"]
                nodes.append(_decode(record, tensors))
            name = "the graph"
            return cls(tuple(nodes), document["info"])
        # A foreign document can be wrong in any way, and every wrong type surfaces as another error.
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise IntegerNetworkError(f"{path}: {name} is malformed ({error}); quantize again") from error


def _moved(value: Node | Requant, device: torch.device | str) -> Node | Requant:
    items = {f.name: getattr(value, f.name) for f in fields(value)}
    moved = {name: item.to(device) for name, item in items.items() if isinstance(item, Tensor)}
    inner = {name: _moved(item, device) for name, item in items.items() if isinstance(item, Requant)}
    return replace(value, **moved, **inner)


_NODES = (Input, Conv, LinearAttention, AveragePool, LayerNorm)
_TRANSFORMER_NODES = (PatchConv, Tokens, Merge, Select, SoftmaxAttention, Rectify)
_KINDS = {kind.__name__: kind for kind in (*_NODES, *_TRANSFORMER_NODES, Requant)}


def _encode(value: Node | Requant, prefix: str, tensors: dict[str, Tensor]) -> dict[str, object]:
    record: dict[str, object] = {"kind": type(value).__name__}
    for f in fields(value):
        item = getattr(value, f.name)
        if isinstance(item, Tensor):
            key = f"{prefix}/{f.name}"
            tensors[key] = item.contiguous().clone()
            record[f.name] = {"tensor": key}
        elif isinstance(item, Requant):
            record[f.name] = _encode(item, f"{prefix}/{f.name}", tensors)
        else:
            record[f.name] = list(item) if isinstance(item, tuple) else item
    return record


def _decode(record: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Node | Requant:
    arguments: dict[str, object] = {}
    for name, item in record.items():
        if name == "kind":
            continue
        if isinstance(item, dict):
            item = tensors[item["tensor"]] if "tensor" in item else _decode(item, tensors)
        elif isinstance(item, list):
            item = tuple(item)
        arguments[name] = Operand(item) if name == "operand" else item
    return _KINDS[record["kind"]](**arguments)
