"""A float graph that learns with fake-quantized weights and maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from quant.graph import (
    INPUT,
    FloatAttention,
    FloatConv,
    FloatGraph,
    FloatLayerNorm,
    FloatNode,
    FloatPool,
    FloatRectify,
    FloatSoftmaxAttention,
)
from quant.qat.config import QatConfig
from quant.qat.rectification import centred_heads
from quant.qat.steps import MapQuantizer, StreamQuantizer, WeightQuantizer
from quant.scales import per_filter
from quant.softmax import LEAST_PROBABILITY_SCALE
from quant.streams import consumers, is_stream, keeps_scale

__all__ = ["Layer", "QuantizedGraph"]


class Layer(nn.Module):
    """A node, its tensors as parameters, and the quantizers of what it reads and makes.

    Members
    -------
    values : ``nn.ParameterDict`` of the node's tensors.
    weight : quantizer of a convolution's weights.
    output : quantizer of the output; None where codes stay those of the input, and of class scores.
    probabilities : quantizer of a softmax attention's probabilities.
    """

    def __init__(self, node: FloatNode) -> None:
        super().__init__()
        self._node = node
        tensors = {f.name: getattr(node, f.name) for f in fields(node) if isinstance(getattr(node, f.name), Tensor)}
        self.values = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in tensors.items()})
        self.weight: WeightQuantizer | None = None
        self.output: MapQuantizer | StreamQuantizer | None = None
        self.probabilities: MapQuantizer | None = None

    @property
    def node(self) -> FloatNode:
        """The node with the values of today, which gradients reach."""
        return replace(self._node, **dict(self.values.items()))


class QuantizedGraph(nn.Module):
    """The network of a float graph; its forward pass is fake-quantized, and all that codes are made by is learned.

    What only LayerNorms, rectifications, and residual sums read has codes of 16 bits in one scale; probabilities and
    what a GELU makes are unsigned; keys and values are symmetric about their zero-point, as weights are.

    Parameters
    ----------
    graph : the trained float network, with rectification if it is to be learned; not changed.
    config : widths and granularities.
    std : of the image normalisation, whose scales of the three colours belong to the first weights.
    """

    def __init__(self, graph: FloatGraph, config: QatConfig, std: Sequence[float]) -> None:
        super().__init__()
        self.config, self._graph = config, graph
        self.layers = nn.ModuleDict({_key(node.name): Layer(node) for node in graph.nodes})
        self.register_buffer("input_factor", min(std) / torch.tensor(std), persistent=False)
        for node in graph.nodes:
            layer = self[node.name]
            if isinstance(node, FloatConv):
                layer.weight = WeightQuantizer(len(node.weight), self.weight_bits(node))
            if isinstance(node, FloatSoftmaxAttention):
                layer.probabilities = self._probabilities(node)
            if not keeps_scale(node) and node is not graph.nodes[-1]:
                layer.output = self._output(node)

    def __getitem__(self, name: str) -> Layer:
        return self.layers[_key(name)]

    @property
    def graph(self) -> FloatGraph:
        """The float network of today: nothing is quantized in it."""
        return FloatGraph(tuple(_detached(self._centred(self[node.name].node)) for node in self._graph.nodes))

    # -- widths --

    def weight_bits(self, node: FloatConv) -> int:
        """Of a convolution's weights."""
        edge = node.inputs[0] == INPUT or node is self._graph.nodes[-1]
        return self.config.edge_bits if edge else self.config.bits

    def map_bits(self, node: FloatNode) -> int:
        """Of a node's output, where it is not a stream: those of the reader with the most."""
        return max(self._bits_for(reader, name) for reader, name in consumers(self._graph, node))

    def _bits_for(self, reader: FloatNode, name: str) -> int:
        if reader is self._graph.nodes[-1] and reader.inputs[0] == name:
            return self.config.edge_bits
        if isinstance(reader, FloatPool):
            return self.map_bits(reader)
        # Few bits leave nothing to normalise.
        return self.config.edge_bits if isinstance(reader, FloatLayerNorm) else self.config.bits

    # -- quantizers --

    def _output(self, node: FloatNode) -> MapQuantizer | StreamQuantizer:
        if is_stream(self._graph, node):
            return StreamQuantizer()
        readers = [reader for reader, _ in consumers(self._graph, node)]
        attention = next((reader for reader in readers if isinstance(reader, FloatSoftmaxAttention)), None)
        channels, bits = self._channels(node), self.map_bits(node)
        if attention is None:
            return MapQuantizer(bits, torch.zeros(channels, dtype=torch.int64), torch.tensor([False]))
        heads = attention.heads if self.config.head_scales == "head" else 1
        group = torch.arange(3 * heads).repeat_interleave(channels // (3 * heads))
        return MapQuantizer(bits, group, torch.arange(3 * heads) >= heads)

    def _probabilities(self, node: FloatSoftmaxAttention) -> MapQuantizer:
        heads = torch.arange(node.heads)
        group = heads if self.config.head_scales == "head" else torch.zeros_like(heads)
        narrow = torch.zeros(int(group.max()) + 1, dtype=torch.bool)
        return MapQuantizer(self.config.bits, group, narrow, offset=False, least=LEAST_PROBABILITY_SCALE)

    def _channels(self, node: FloatNode) -> int:
        """Of a node's output."""
        if isinstance(node, FloatConv | FloatLayerNorm):
            return len(node.weight)
        if isinstance(node, FloatRectify):
            return len(node.gain) // 2 * 3
        before = {other.name: other for other in self._graph.nodes}
        channels = sum(self._channels(before[name]) for name in node.inputs)
        return channels // 3 if isinstance(node, FloatAttention | FloatSoftmaxAttention) else channels

    def _grouped(self, node: FloatNode) -> bool:
        """Whether scales of channels may differ by powers of two: only convolutions of few bits read the map."""
        readers = self._graph.readers[node.name]
        only_read_by_filters = all(isinstance(reader, FloatConv) for reader in readers)
        return self.config.map_scales == "groups" and only_read_by_filters and not isinstance(node, FloatPool)

    # -- running --

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Choose all steps and zero-points from what the float network makes of normalised images."""
        for node, tensors in self.graph.run(x):
            layer = self[node.name]
            if isinstance(layer.output, StreamQuantizer):
                layer.output.start(tensors["output"])
            elif layer.output is not None:
                layer.output.start(tensors["output"], grouped=self._grouped(node))
            if layer.probabilities is not None:
                layer.probabilities.start(tensors["attention"])
        for node in self.graph.nodes:
            if isinstance(node, FloatConv):
                self[node.name].weight.start(node.weight, self.factor(node))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to class scores (N, classes)."""
        for _, tensors in self.run(x):
            output = tensors["output"]
        return output[:, :, 0, 0]

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Class scores (N, classes), as `FloatGraph.logits` gives them."""
        return self(x)

    def run(
        self, x: Tensor, values: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[FloatNode, dict[str, Tensor]]]:
        """Yield each node with its tensors, in order; a softmax attention's with "q" and "k", its quantized input.

        Outputs take their `values`, if given, by node; gradients pass straight through.
        """
        live = {INPUT: x}
        for original in self._graph.nodes:
            layer = self[original.name]
            sources = [live[name] for name in original.inputs]
            node = self.fake(original)
            if isinstance(node, FloatSoftmaxAttention):
                tensors = self._attend(node, layer, sources[0])
            else:
                tensors = node.run(*sources)
            if layer.output is not None:
                tensors["output"] = layer.output(tensors["output"])
            if values is not None:
                tensors["output"] = tensors["output"] + (values[node.name] - tensors["output"]).detach()
            live[node.name] = tensors["output"]
            yield node, tensors
            for name in original.inputs:
                if self._graph.readers[name][-1] is original:
                    del live[name]

    def _attend(self, node: FloatSoftmaxAttention, layer: Layer, x: Tensor) -> dict[str, Tensor]:
        # Integers weight v less the middle of its codes, and add that as a constant: the codes of few-bit
        # probabilities do not add up to 1, so it matters.
        middle = self[node.inputs[0]].output.middle
        middle[: len(middle) // 3 * 2] = 0
        q, k, v = node.heads_of(x - middle[:, None, None])
        attention = layer.probabilities(node.attention(node.scores(q, k), *x.shape[2:]))
        output = node.combine(attention, v, *x.shape[2:]) + middle.chunk(3)[2][:, None, None]
        return {"q": q, "k": k, "attention": attention, "output": output}

    def fake(self, original: FloatNode) -> FloatNode:
        """A node with its values of today, a convolution's weights fake-quantized."""
        layer = self[original.name]
        node = self._centred(layer.node)
        return replace(node, weight=layer.weight(node.weight, self.factor(node))) if layer.weight else node

    def factor(self, node: FloatConv) -> Tensor:
        """What the scales of the input's channels multiply weights by, but for a common factor; broadcastable."""
        source = node.inputs[0]
        if source == INPUT:
            factor = self.input_factor
        elif isinstance(output := self[source].output, MapQuantizer) and output.grouped:
            factor = output.factor
        else:
            return torch.ones(1, 1, 1, 1, device=node.weight.device)
        return per_filter(factor, node.weight, node.groups)

    def _centred(self, node: FloatNode) -> FloatNode:
        reader = self._graph.readers[node.name][0] if self._graph.readers[node.name] else None
        if isinstance(reader, FloatRectify) and not reader.centred:
            return centred_heads(node, reader.heads)
        return node


def _key(name: str) -> str:
    """Modules have no dots in their names."""
    return name.replace(".", "_")


def _detached(node: FloatNode) -> FloatNode:
    return replace(node, **{name: value.detach() for name, value in vars(node).items() if isinstance(value, Tensor)})
