"""A block of the integer network as a differentiable model of the same arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from quant import numerics
from quant.builder import probabilities_of
from quant.config import QuantizerConfig
from quant.graph import FloatAttention, FloatConv, FloatNode, FloatSoftmaxAttention
from quant.integer_network import Conv, LinearAttention, Node, PatchConv
from quant.reconstruction.learned import Learned, LearnedConv
from quant.reconstruction.rounding import AdaptiveRounding
from quant.reconstruction.steps import LearnedSteps, pass_round
from quant.scales import AffineFormat, per_filter

__all__ = ["BlockModel"]


class BlockModel(nn.Module):
    """Computes the block's output, real values (N, C, H, W), from those of its input, as the integer nodes would.

    Parameters
    ----------
    block : float nodes, in order; only the first input of the first one comes from outside.
    nodes : their integer nodes, from which everything starts.
    formats : of the block's input and of every node's output.
    units : real value of one accumulator unit of each convolution, (O,).
    config : what is learned once for several channels or heads, and what for each.
    """

    def __init__(
        self,
        block: Sequence[FloatNode],
        nodes: Sequence[Node],
        formats: Mapping[str, AffineFormat],
        units: Mapping[str, Tensor],
        config: QuantizerConfig,
    ) -> None:
        super().__init__()
        self._block, self._config = block, config
        self.steps = nn.ModuleDict()
        self.layers = nn.ModuleDict()
        for node, made in zip(block, nodes, strict=True):
            if isinstance(node, FloatConv):
                layer = _ConvLayer(node, made, formats[node.inputs[0]], units[node.name])
            elif isinstance(node, FloatAttention):
                groups = len(made.inputs) if config.attention_state == "tensor" else len(made.state_multiplier)
                layer = _AttentionLayer(made, [self.steps[_key(name)] for name in node.inputs], groups)
            elif isinstance(node, FloatSoftmaxAttention):
                layer = _SoftmaxLayer(node, formats[probabilities_of(node)])
            else:
                layer = _FixedLayer(node)
            self.layers[_key(node.name)] = layer
            if not formats[node.name].signed:
                self.steps[_key(node.name)] = LearnedSteps(formats[node.name], independent=self._is_independent(node))

    def _is_independent(self, node: FloatNode) -> bool:
        """Whether channels may learn scales one by one: depthwise filters absorb them, others need their ratios."""
        readers = [reader for reader in self._block if node.name in reader.inputs]
        depthwise = bool(readers) and all(isinstance(r, FloatConv) and r.is_depthwise for r in readers)
        return depthwise and self._config.depthwise_input == "channel"

    def forward(self, x: Tensor) -> Tensor:
        """x: what the integer nodes before the block put out, as real values."""
        live = {self._block[0].inputs[0]: x}
        for node in self._block:
            y, key = self.layers[_key(node.name)](*(live[name] for name in node.inputs)), _key(node.name)
            live[node.name] = self.steps[key](y) if key in self.steps else y
        return live[self._block[-1].name]

    def shares(self) -> list[Tensor]:
        """Of the last `forward`: how far every weight of each convolution has been rounded up, 0..1."""
        return [layer.share for layer in self.layers.values() if isinstance(layer, _ConvLayer)]

    def learned(self) -> Learned:
        """What has been learned, hardened."""
        convs, formats, units = {}, {}, {}
        for node in self._block:
            layer, key = self.layers[_key(node.name)], _key(node.name)
            if isinstance(layer, _ConvLayer):
                convs[node.name] = layer.learned()
            if isinstance(layer, _AttentionLayer):
                units[node.name] = layer.units()
            if isinstance(layer, _SoftmaxLayer):
                formats[probabilities_of(node)] = layer.steps.format()
            if key in self.steps:
                formats[node.name] = self.steps[key].format()
        return Learned(convs, formats, units)


def _key(name: str) -> str:
    """PyTorch allows no dots in the names of modules."""
    return name.replace(".", "/")


class _FixedLayer(nn.Module):
    """Whatever has no integers of its own to learn, like pooling or LayerNorm: at most the step of the output is
    learned."""

    def __init__(self, node: FloatNode) -> None:
        super().__init__()
        self._node = node

    def forward(self, x: Tensor) -> Tensor:
        return self._node.run(x)["output"]


class _ConvLayer(nn.Module):
    """Convolution with learned rounding and biases, then an activation function or a residual sum.

    Parameters
    ----------
    node, made : the float and the integer convolution.
    source : format of the channels that it reads, or of all.
    unit : (O,) real value of one accumulator unit.
    """

    def __init__(self, node: FloatConv, made: Conv | PatchConv, source: AffineFormat, unit: Tensor) -> None:
        super().__init__()
        self._node = node
        zeros, scales = (per_filter(x, node.weight, node.groups) for x in (source.zero, source.scale))
        step = unit.reshape(-1, 1, 1, 1) / scales
        self.rounding = AdaptiveRounding(node.weight, step, numerics.weight_range(made.weight_bits)[1])
        self.register_buffer("start", unit * (made.requant.bias + (made.weight.long() * zeros).sum((1, 2, 3))))
        # Biases are learned in units of the filter's step, which makes one learning rate suit all.
        self.register_buffer("unit", step.mean((1, 2, 3)))
        self.shift = nn.Parameter(torch.zeros(len(unit)))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        weight, self.share = self.rounding()
        node = replace(self._node, weight=weight, bias=(self.start + self.unit * self.shift).float())
        sources = (x,) if residual is None else (x, residual)
        return node.run(*sources)["output"]

    def learned(self) -> LearnedConv:
        """Codes, what they stand for, and biases."""
        codes = self.rounding.hardened()
        return LearnedConv(
            codes, codes.double() * self.rounding.step.double(), self.start + self.unit * self.shift.detach().double()
        )


class _SoftmaxLayer(nn.Module):
    """Softmax attention with quantized probabilities, whose steps are learned, one per head.

    Parameters
    ----------
    form : of the probabilities.
    """

    def __init__(self, node: FloatSoftmaxAttention, form: AffineFormat) -> None:
        super().__init__()
        self._node = node
        self.steps = LearnedSteps(form, independent=True)

    def forward(self, x: Tensor) -> Tensor:
        node, size = self._node, x.shape[2:]
        q, k, v = node.heads_of(x)
        attention = self.steps(node.attention(node.scores(q, k), *size))
        return node.combine(attention, v, *size)


class _AttentionLayer(nn.Module):
    """Linear attention on codes, with learned units of states and row sums.

    Parameters
    ----------
    made : the integer node.
    sources : steps of the tensors it reads.
    groups : of heads, side by side, that share what is learned.
    """

    def __init__(self, made: LinearAttention, sources: Sequence[LearnedSteps], groups: int) -> None:
        super().__init__()
        self._made, self._sources = made, list(sources)
        for kind in ("state", "sum"):
            unit = torch.ldexp(1.0 / getattr(made, f"{kind}_multiplier").double(), getattr(made, f"{kind}_shift"))
            self.register_buffer(f"{kind}_unit", unit.float().reshape(-1, 1, 1))
        self.log_factor = nn.Parameter(torch.zeros(2, groups, 1, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        made, d = self._made, self._made.head_dim
        codes = torch.cat([steps.centred(x) for steps, x in zip(self._sources, inputs)], 1)
        scales = torch.cat([steps.scales(x.shape[1]) for steps, x in zip(self._sources, inputs)])
        n, _, height, width = codes.shape
        q, k, v = codes.reshape(n, -1, 3, d, height * width).unbind(2)
        q, k = q.relu(), k.relu()
        state_unit, sum_unit = self._units()
        levels = numerics.weight_range(made.state_bits)[1]
        state = pass_round((k @ v.transpose(-1, -2) / state_unit).clamp(-levels, levels))
        sums = pass_round((k.sum(-1, keepdim=True) / sum_unit).clamp(max=levels))
        quotient = (state.transpose(-1, -2) @ q) * self._reciprocal(sums.transpose(-1, -2) @ q)
        value_scale = scales.reshape(-1, 3, d)[:, 2].unsqueeze(-1)  # (heads, d, 1)
        return (quotient * (state_unit / sum_unit) * value_scale).reshape(n, -1, height, width)

    def _units(self) -> tuple[Tensor, Tensor]:
        factors = self.log_factor.exp().repeat_interleave(len(self.state_unit) // self.log_factor.shape[1], 1)
        return self.state_unit * factors[0], self.sum_unit * factors[1]

    def _reciprocal(self, divisor: Tensor) -> Tensor:
        """What the integers make of 1 / divisor; the gradient is that of the exact reciprocal."""
        exact = torch.where(divisor > 0.5, 1.0 / divisor.clamp(min=0.5), 0.0)
        made = self._made
        r, e = made.reciprocal(torch.round(divisor.detach()).long())
        coded = torch.ldexp(r.float(), -numerics.RECIPROCAL_BITS - e)
        if made.divisor_multiplier is not None:
            # It is the reciprocal of a code.
            coded = coded * torch.ldexp(made.divisor_multiplier.float(), -made.divisor_shift).reshape(-1, 1, 1)
        return exact + (coded - exact).detach()

    def units(self) -> tuple[Tensor, Tensor]:
        """Integers of states, and of row sums, that one code stands for, (heads,) float64 each."""
        state, sums = self._units()
        return state.detach().double().flatten(), sums.detach().double().flatten()
