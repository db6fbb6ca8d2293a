"""The integer-only network: a graph of integer operations with exact semantics, from image bytes to class scores.

Nodes are executed in order by `IntegerNetwork.run` on batches; every node calls `quant.numerics` and nothing else.
Tensors are named after the node that makes them, hold codes, and are (N, C, H, W).
"""

from quant.integer_network.checks import IntegerNetworkError
from quant.integer_network.network import IntegerNetwork
from quant.integer_network.nodes import AveragePool, Conv, Input, LayerNorm, LinearAttention, Node
from quant.integer_network.requant import Requant
from quant.integer_network.transformer import Merge, PatchConv, Rectify, Select, SoftmaxAttention, Tokens

__all__ = [
    "AveragePool",
    "Conv",
    "Input",
    "IntegerNetwork",
    "IntegerNetworkError",
    "LayerNorm",
    "LinearAttention",
    "Merge",
    "Node",
    "PatchConv",
    "Rectify",
    "Requant",
    "Select",
    "SoftmaxAttention",
    "Tokens",
]
