"""A float network as a flat list of operations, one for each node that its integer network will have.

Calibration, quantization, training with quantization, and comparison all walk this list, so node names are decided
here and nowhere else.
"""

from quant.graph.graph import FloatGraph
from quant.graph.nodes import (
    INPUT,
    Activation,
    FloatAttention,
    FloatConv,
    FloatLayerNorm,
    FloatMerge,
    FloatNode,
    FloatPool,
    FloatRectify,
    FloatSelect,
    FloatSoftmaxAttention,
    FloatTokens,
)

__all__ = [
    "INPUT",
    "Activation",
    "FloatAttention",
    "FloatConv",
    "FloatGraph",
    "FloatLayerNorm",
    "FloatMerge",
    "FloatNode",
    "FloatPool",
    "FloatRectify",
    "FloatSelect",
    "FloatSoftmaxAttention",
    "FloatTokens",
]
