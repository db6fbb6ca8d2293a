"""The float network on fake-quantized tensors: what published quantization results usually are.

Weights and the output of every operation go through the formats of an integer network and back to floats; what lies
between stays float: accumulators, activation functions, the states and divisors of the attention. The integer network
beside it shows what integer arithmetic itself costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant.graph import INPUT, FloatConv, FloatGraph, FloatNode
from quant.integer_network import Conv, IntegerNetwork, PatchConv
from quant.scales import AffineFormat, fitted_unit, per_filter

__all__ = ["fake_quantized", "quantized_input", "recorded_format"]


@dataclass(frozen=True, kw_only=True)
class FakeQuantized(FloatNode):
    """An operation whose output is rounded to what codes can stand for."""

    node: FloatNode
    output: AffineFormat

    def run(self, *inputs: Tensor) -> dict[str, Tensor]:
        tensors = self.node.run(*inputs)
        return tensors | {"output": self.output.dequantize(self.output.quantize(tensors["output"]))}


def fake_quantized(graph: FloatGraph, network: IntegerNetwork) -> FloatGraph:
    """The graph that `network` was made from, with fake-quantized weights and outputs; see `quantized_input`."""
    return FloatGraph(tuple(_fake_node(node, network) for node in graph.nodes))


def quantized_input(network: IntegerNetwork) -> Callable[[Tensor], Tensor]:
    """Input of the fake-quantized graph for images (N, size, size, 3) uint8."""
    form = recorded_format(network, INPUT)
    return lambda images: form.dequantize(network.input.run(images.permute(0, 3, 1, 2)))


def recorded_format(network: IntegerNetwork, name: str) -> AffineFormat:
    """Format of a tensor, as the quantizer noted it down."""
    recorded = network.info["formats"][name]
    scale = torch.tensor(recorded["scale"], dtype=torch.float64)
    zero = torch.tensor(recorded["zero_point"], dtype=torch.int64)
    return AffineFormat(scale, zero, *network.widths()[name])


def _fake_node(node: FloatNode, network: IntegerNetwork) -> FakeQuantized:
    if isinstance(node, FloatConv):
        node = _fake_weights(node, network[node.name], recorded_format(network, node.inputs[0]))
    return FakeQuantized(name=node.name, inputs=node.inputs, node=node, output=recorded_format(network, node.name))


def _fake_weights(node: FloatConv, integer: Conv | PatchConv, source: AffineFormat) -> FloatConv:
    """Weights and biases that the integers stand for.

    Codes stand for weights times the scales of the inputs, in units that fit them best; the integer bias has the
    zero-points of the inputs folded in.
    """
    codes = integer.weight.double()
    scales, zeros = (per_filter(x, codes, node.groups) for x in (source.scale, source.zero))
    unit = fitted_unit(codes, node.weight.double() * scales, torch.zeros(len(codes), dtype=torch.float64))
    bias = (integer.requant.bias + (codes * zeros).sum((1, 2, 3))) * unit
    # Codes of a filter of zeros say nothing about its unit.
    bias = torch.where(codes.abs().amax((1, 2, 3)) == 0, node.bias.double(), bias)
    weight = codes * unit[:, None, None, None] / scales
    return replace(node, weight=weight.float(), bias=bias.float())
