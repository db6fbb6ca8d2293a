"""Makes the integer nodes of a network one after the other, following the codes of sample images through them.

Ranges give scales and zero-points, scales give multipliers and shifts, zero-points and biases are folded together,
image normalisation is folded into the first convolution.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from quant import numerics
from quant.attention import divisor_steps, state_units
from quant.config import QuantizerConfig
from quant.equalize import Reader, attention_format, equalized_format, softmax_format
from quant.graph import (
    INPUT,
    FloatAttention,
    FloatConv,
    FloatGraph,
    FloatLayerNorm,
    FloatMerge,
    FloatNode,
    FloatPool,
    FloatRectify,
    FloatSelect,
    FloatSoftmaxAttention,
    FloatTokens,
)
from quant.integer_network import (
    AveragePool,
    Conv,
    Input,
    LayerNorm,
    LinearAttention,
    Merge,
    Node,
    PatchConv,
    Rectify,
    Requant,
    Select,
    SoftmaxAttention,
    Tokens,
)
from quant.numerics import Operand
from quant.observers import Extremes, affine_range
from quant.reconstruction.learned import Learned
from quant.scales import (
    BIAS_LIMIT,
    LARGEST_FACTOR,
    AffineFormat,
    fitted_unit,
    fixed_point,
    gelu_table,
    hardswish_table,
    per_filter,
    quantize_weight,
    shared_fixed_point,
    signed_fixed_point,
)
from quant.softmax import exponents, probability_format, probability_requant, relative_bias
from quant.streams import consumers, is_stream
from quant.trio_vit import migrated_format, shifted_format

__all__ = ["Builder", "QuantizationError", "map_format", "probabilities_of"]

#: the largest calibrated class score takes this part of the 16-bit range
SCORE_SHARE = 0.5
#: likewise the largest value of a residual stream, of the range of its codes
STREAM_SHARE = 0.5
#: guard bits of a residual sum, where the 24-bit stage has room for them
GUARD_BITS = 12
#: fractional bits of an attention's quotients: at least so many that shift and divisor's exponent stay in range
FRACTION_RANGE = (4, 14)
#: sample images at a time, which bounds the memory that integer operations take
SAMPLE_BATCH = 16
#: epsilon of LayerNorm in integers stays below this
EPSILON_LIMIT = 1 << 40


class QuantizationError(ValueError):
    """A model or images that cannot be quantized; the message names the layer and what to do."""


def map_format(graph: FloatGraph, node: FloatNode, config: QuantizerConfig) -> str:
    """How a node's output gets its scales: the field of the configuration that is in charge of it, "tensor", or
    "stream"."""
    if is_stream(graph, node):
        return "stream"
    readers = [reader for reader, _ in consumers(graph, node)]
    if any(isinstance(reader, (FloatAttention, FloatSoftmaxAttention)) for reader in readers):
        return config.attention_input
    if isinstance(node, FloatPool) or not readers or not all(isinstance(reader, FloatConv) for reader in readers):
        return "tensor"
    if all(reader.is_depthwise and reader.inputs[0] == node.name for reader in readers):
        return config.depthwise_input
    if isinstance(node, FloatConv) and node.is_depthwise and node.activation == "hardswish":
        return config.second_pointwise_input
    return config.pointwise_input


def probabilities_of(node: FloatSoftmaxAttention | SoftmaxAttention) -> str:
    """The name under which the probabilities inside an attention have a format."""
    return f"{node.name}.attention"


class Builder:
    """The network so far.

    Members
    -------
    nodes : integer nodes.
    formats : of every tensor made so far, by name.
    units : real value of one accumulator unit of each convolution made so far, (O,).
    """

    def __init__(
        self,
        graph: FloatGraph,
        observers: dict[tuple[str, str], Extremes],
        config: QuantizerConfig,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.graph, self.observers, self.config = graph, observers, config
        # Codes are the high bits of the bytes: code c stands for the middle of its bytes, `step * c + middle`.
        step = 1 << (8 - config.act_bits)
        middle = (step - 1) / 2
        mean255, std255 = 255.0 * torch.tensor(mean).double(), 255.0 * torch.tensor(std).double()
        zero = torch.round((mean255 - middle) / step).long().clamp(0, (1 << config.act_bits) - 1)
        #: what the zero code of each colour really stands for
        self.input_offset = (step * zero + middle - mean255) / std255
        self.formats = {INPUT: AffineFormat(step / std255, zero, config.act_bits)}
        self.nodes: list[Node] = [Input(name=INPUT, channels=3, size=size, bits=config.act_bits)]
        self.units: dict[str, Tensor] = {}
        #: what reconstruction found takes the place of what this class would choose
        self.learned = Learned()
        #: codes (N, C, H, W) of the sample images, of tensors that are still to be read
        self.codes: dict[str, Tensor] = {}

    def start(self, images: np.ndarray) -> None:
        """Take the sample images (N, size, size, 3) uint8."""
        self.codes[INPUT] = self.nodes[0].run(torch.from_numpy(images).permute(0, 3, 1, 2))

    def fork(self, learned: Learned | None = None) -> Builder:
        """A copy that grows on its own, and goes by what reconstruction found for the nodes to come."""
        twin = copy.copy(self)
        twin.nodes, twin.learned = list(self.nodes), learned or Learned()
        twin.formats, twin.units, twin.codes = dict(self.formats), dict(self.units), dict(self.codes)
        return twin

    def add(self, node: FloatNode, tensors: dict[str, Tensor]) -> None:
        """Append the integer node of a float one, given the float tensors of the sample images."""
        makers = {
            FloatConv: self._conv,
            FloatAttention: self._attention,
            FloatPool: self._pool,
            FloatLayerNorm: self._layer_norm,
            FloatTokens: self._tokens,
            FloatMerge: self._merge,
            FloatSelect: self._select,
            FloatRectify: self._rectify,
            FloatSoftmaxAttention: self._softmax_attention,
        }
        try:
            made = makers[type(node)](node)
        except ValueError as error:
            raise QuantizationError(f"{node.name}: {error}") from error
        sources = [self.codes[name] for name in made.inputs]
        correctable = isinstance(made, (Conv, PatchConv, SoftmaxAttention)) and node.name not in self.learned.convs
        if correctable and self.config.bias_correction:
            made = self._corrected(made, sources, tensors)
        self.nodes.append(made)
        batches = zip(*(source.split(SAMPLE_BATCH) for source in sources))
        codes = torch.cat([made.run(*batch) for batch in batches])
        self.codes[made.name] = self.formats[made.name].stored(codes)
        for name in made.inputs:
            if self.graph.readers[name][-1] is node:
                del self.codes[name]

    def _corrected(
        self, node: Conv | PatchConv | SoftmaxAttention, sources: Sequence[Tensor], tensors: dict[str, Tensor]
    ) -> Conv | PatchConv | SoftmaxAttention:
        """Shift the biases by the mean error that the codes so far cause (bias correction, Nagel et al., ICCV 2019)."""
        source, *residual = sources
        wanted = tensors["output" if isinstance(node, SoftmaxAttention) else "linear"]
        if residual:
            # What the sum lacks, so that errors do not pile up along the residual path.
            wanted = tensors["output"] - self.formats[node.inputs[1]].dequantize(residual[0])
        sums = sum(node.accumulate(batch).sum((0, 2, 3)) for batch in source.split(SAMPLE_BATCH))
        found = sums / (wanted.numel() / len(sums)) + node.requant.bias
        error = torch.round(wanted.double().mean((0, 2, 3)) / self.units[node.name] - found)
        # A filter of zeros has too small a unit to correct anything.
        error = error.clamp(-BIAS_LIMIT, BIAS_LIMIT).long()
        return replace(node, requant=replace(node.requant, bias=node.requant.bias + error))

    # -- convolutions --

    def _conv(self, node: FloatConv) -> Conv | PatchConv:
        source = self.formats[node.inputs[0]]
        # Scales of input channels move into the weights; the codes then count in units of the filter's own scale.
        scale = per_filter(source.scale, node.weight, node.groups)
        if node.name in self.learned.convs:
            found = self.learned.convs[node.name]
            codes, bias = found.codes, found.bias
            unit = fitted_unit(codes, found.weight * scale, bias.abs() / BIAS_LIMIT)
        else:
            weight, bias = node.weight.double(), node.bias.double()
            if node.inputs[0] == INPUT:
                bias = bias + (weight * self.input_offset[:, None, None]).sum((1, 2, 3))
            codes, unit = quantize_weight(
                weight * scale, self.config.weight_bits_of(node.name), least_scale=bias.abs() / BIAS_LIMIT
            )
        self.units[node.name] = unit
        folded = (codes.long() * per_filter(source.zero, codes, node.groups)).sum((1, 2, 3))
        steps = torch.round(bias / unit).clamp(-BIAS_LIMIT, BIAS_LIMIT).long()
        requant = self._conv_requant(node, unit, steps - folded)
        if node.padding is None and codes.shape[-1] > 1:
            return self._patch_conv(node, codes, requant)
        return Conv(
            name=node.name,
            inputs=node.inputs,
            weight=codes,
            requant=requant,
            pad_value=source.zero.expand(codes.shape[1] * node.groups).clone(),
            stride=node.stride,
            groups=node.groups,
            weight_bits=self.config.weight_bits_of(node.name),
        )

    def _patch_conv(self, node: FloatConv, codes: Tensor, requant: Requant) -> PatchConv:
        if node.groups > 1 or node.stride != codes.shape[-1]:
            raise ValueError("a convolution without padding must be one of patches: stride = kernel, one group")
        return PatchConv(
            name=node.name,
            inputs=node.inputs,
            weight=codes,
            requant=requant,
            weight_bits=self.config.weight_bits_of(node.name),
        )

    def _conv_requant(self, node: FloatConv, unit: Tensor, bias: Tensor) -> Requant:
        if node.activation in TABLES:
            return self._activation_requant(node, unit, bias)
        if len(node.inputs) == 2:
            return self._residual_requant(node, unit, bias)
        return self._plain_requant(node, unit, bias)

    def _plain_requant(self, node: FloatNode, unit: Tensor, bias: Tensor) -> Requant:
        form = self._scores_format(node) if node is self.graph.nodes[-1] else self._output_format(node)
        multiplier, shift = signed_fixed_point(unit / form.scale)
        return self._requant(node, form, bias=bias, multiplier=multiplier, shift=shift)

    def _activation_requant(self, node: FloatConv | FloatLayerNorm, unit: Tensor, bias: Tensor) -> Requant:
        form = self._output_format(node)
        linear = self.observers[node.name, "linear"]
        # Pre-activations beyond the range of the output would only be clamped.
        largest = float((form.scale * ((1 << form.bits) - 1 - form.zero)).max())
        make_table, inverse = TABLES[node.activation]
        high = min(float(linear.maximum.max()), inverse(largest))
        table = make_table(high, self.config.table_index_bits)
        multiplier, shift = signed_fixed_point(unit / table.index_scale)
        multiplier2, shift2 = shared_fixed_point(table.value_scale / form.scale)
        # The scale is whatever the integers make it, so rounding the multiplier costs nothing.
        exact = table.value_scale * 2.0**shift2 / multiplier2.double()
        return self._requant(
            node,
            AffineFormat(exact, form.zero, form.bits),
            bias=bias,
            multiplier=multiplier,
            shift=shift,
            multiplier2=multiplier2,
            shift2=shift2,
            operand=Operand.TABLE,
            table=table.entries,
            index_zero=table.index_zero,
        )

    def _residual_requant(self, node: FloatConv, unit: Tensor, bias: Tensor) -> Requant:
        form, residual = self._output_format(node), self.formats[node.inputs[1]]
        linear = self.observers[node.name, "linear"]
        smallest = float(form.scale.min())
        reach = max(float(linear.maximum.max()), -float(linear.minimum.min()), smallest) / smallest
        ratio = residual.scale / form.scale
        # The stage may reach a quarter of its range, the multipliers must fit.
        guard = min(
            GUARD_BITS,
            numerics.STAGE_BITS - 3 - math.ceil(math.log2(reach)),
            numerics.MULTIPLIER2_BITS - 1 - math.floor(math.log2(float(ratio.max()))),
            math.floor(math.log2(LARGEST_FACTOR / float((unit / form.scale).max().clamp(min=1e-9)))),
        )
        guard = max(guard, 0)
        multiplier2 = torch.round(ratio * 2**guard).long()
        if form.signed:
            # A stream's scale is what makes the second multiplier exact: nothing is lost along the residual path.
            multiplier2 = torch.floor(ratio * 2**guard).long().clamp(min=1)
            form = replace(form, scale=residual.scale * 2.0**guard / multiplier2)
        multiplier, shift = fixed_point(unit / form.scale * 2**guard)
        if int(multiplier2.max()) >= 1 << numerics.MULTIPLIER2_BITS:
            raise ValueError(f"the residual's scale is {float(ratio.max()):g} times that of the sum")
        return self._requant(
            node,
            form,
            bias=bias,
            multiplier=multiplier,
            shift=shift,
            multiplier2=multiplier2,
            shift2=guard,
            operand=Operand.RESIDUAL,
            residual_zero=int(residual.zero[0]),
        )

    # -- everything else --

    def _attention(self, node: FloatAttention) -> LinearAttention:
        config = self.config
        sources = [self.formats[name] for name in node.inputs]
        codes = [self.codes[name].int() - int(source.zero[0]) for name, source in zip(node.inputs, sources)]
        centred = torch.cat(codes, 1)
        scales = torch.cat([source.scale.expand(len(codes[0][0])) for source in sources])
        value_scale = scales.reshape(-1, 3, node.head_dim)[:, 2].flatten()
        heads = len(value_scale) // node.head_dim
        groups = heads if config.attention_state == "head" else len(sources)
        if node.name in self.learned.units:
            state_unit, sum_unit = self.learned.units[node.name]
        else:
            state_unit, sum_unit = state_units(
                centred, node.head_dim, value_scale, bits=config.state_bits, observer=config.observer, groups=groups
            )
        state_multiplier, state_shift = fixed_point(1.0 / state_unit)
        sum_multiplier, sum_shift = fixed_point(1.0 / sum_unit)
        divisor: dict[str, Tensor] = {}
        if config.divisor == "uniform":
            step = divisor_steps(centred, node.head_dim, sum_unit, bits=config.state_bits, groups=groups)
            divisor["divisor_multiplier"], divisor["divisor_shift"] = fixed_point(1.0 / step)
            sum_unit = sum_unit * step

        # The quotient of integers N / D stands for N / D * state_unit / sum_unit * (scale of v): the scales of q and k
        # cancel. It gets `fraction` bits such that what the output can hold fits in 16 bits.
        form = self._output_format(node)
        out = form.expand(len(value_scale))
        largest = out.scale * (torch.maximum(out.zero, (1 << form.bits) - 1 - out.zero) + 1) / value_scale
        reach = largest.reshape(len(state_unit), -1).amax(1) * sum_unit / state_unit
        fraction = (
            torch.floor(torch.log2(((1 << (numerics.OPERAND_BITS - 1)) - 1) / reach)).long().clamp(*FRACTION_RANGE)
        )
        unit = torch.ldexp(state_unit / sum_unit, -fraction).repeat_interleave(node.head_dim)
        factor = unit * value_scale / out.scale
        multiplier2, shift2 = shared_fixed_point(factor)
        requant = self._requant(
            node,
            form,
            bias=torch.zeros(len(factor), dtype=torch.int64),
            multiplier=torch.zeros(1, dtype=torch.int64),
            shift=(numerics.RECIPROCAL_BITS - fraction).repeat_interleave(node.head_dim),
            multiplier2=multiplier2,
            shift2=shift2,
            operand=Operand.STAGE,
        )
        return LinearAttention(
            name=node.name,
            inputs=node.inputs,
            head_dim=node.head_dim,
            input_zero=tuple(int(source.zero[0]) for source in sources),
            state_multiplier=state_multiplier,
            state_shift=state_shift,
            sum_multiplier=sum_multiplier,
            sum_shift=sum_shift,
            requant=requant,
            state_bits=config.state_bits,
            mantissa_bits=config.divisor_mantissa_bits,
            **divisor,
        )

    def _pool(self, node: FloatPool) -> AveragePool:
        form, source = self._output_format(node), self.formats[node.inputs[0]]
        self.formats[node.name] = form
        pixels = self.codes[node.inputs[0]][0, 0].numel()
        multiplier, shift = fixed_point(source.scale / (form.scale * pixels))
        return AveragePool(
            name=node.name,
            inputs=node.inputs,
            bias=-pixels * int(source.zero),
            multiplier=int(multiplier),
            shift=int(shift),
            zero_point=int(form.zero),
            out_bits=form.bits,
        )

    def _layer_norm(self, node: FloatLayerNorm) -> LayerNorm:
        source = self.formats[node.inputs[0]]
        unit, bias = _norm_steps(node.weight, node.bias)
        make = self._activation_requant if node.activation else self._plain_requant
        return LayerNorm(
            name=node.name,
            inputs=node.inputs,
            epsilon=_norm_epsilon(node.epsilon, len(unit), source),
            requant=make(node, unit, bias),
        )

    # -- transformers --

    def _tokens(self, node: FloatTokens) -> Tokens:
        form = self.formats[node.inputs[0]]
        self.formats[node.name] = form
        count = node.tokens.shape[1]

        def codes(values: Tensor) -> Tensor:
            return form.quantize(values[None])[0]

        return Tokens(
            name=node.name,
            inputs=node.inputs,
            tokens=codes(node.tokens + node.positions[:, :count]),
            positions=codes(node.positions[:, count:]),
            bits=form.bits,
        )

    def _merge(self, node: FloatMerge) -> Merge:
        self.formats[node.name] = self._repeated(node, 4)
        return Merge(name=node.name, inputs=node.inputs)

    def _select(self, node: FloatSelect) -> Select:
        self.formats[node.name] = self._repeated(node, len(node.tokens))
        return Select(name=node.name, inputs=node.inputs, tokens=node.tokens)

    def _repeated(self, node: FloatNode, times: int) -> AffineFormat:
        """The input's format, so many times side by side."""
        form = self.formats[node.inputs[0]]
        return (
            form
            if len(form.scale) == 1
            else replace(form, scale=form.scale.repeat(times), zero=form.zero.repeat(times))
        )

    def _rectify(self, node: FloatRectify) -> Rectify:
        source = self.formats[node.inputs[0]]
        unit, bias = _norm_steps(node.gain, node.shift)
        values = len(unit) // 2
        unit = torch.cat((unit, source.scale.expand(values)))
        return Rectify(
            name=node.name,
            inputs=node.inputs,
            heads=node.heads,
            epsilon=_norm_epsilon(node.epsilon, values // node.heads, source),
            requant=self._plain_requant(node, unit, torch.cat((bias, torch.zeros(values, dtype=torch.int64)))),
            centred=node.centred,
        )

    def _softmax_attention(self, node: FloatSoftmaxAttention) -> SoftmaxAttention:
        source = self.formats[node.inputs[0]].expand(self.codes[node.inputs[0]].shape[1])
        queries, keys, values = source.scale.reshape(3, node.heads, -1)
        score_unit = node.scale * (queries * keys)[:, 0]
        multiplier, shift = exponents(score_unit, self.config.exp_index_bits)
        name = probabilities_of(node)
        probability, self.formats[name] = probability_requant(self._probability_format(node))
        unit = (self.formats[name].scale[:, None] * values).flatten()
        middle = 1 << (source.bits - 1)
        # Probabilities add up to 1, so the zero-points of v are constants in the output.
        offset = (middle - source.zero.chunk(3)[2]) * values.flatten()
        requant = self._plain_requant(node, unit, torch.round(offset / unit).long())
        self.units[node.name] = unit
        return SoftmaxAttention(
            name=node.name,
            inputs=node.inputs,
            heads=node.heads,
            query_zero=source.zero.chunk(3)[0].clone(),
            exponent_multiplier=multiplier,
            exponent_shift=shift,
            probability=probability,
            requant=requant,
            bits=source.bits,
            index_bits=self.config.exp_index_bits,
            mantissa_bits=self.config.divisor_mantissa_bits,
            window=node.window,
            window_shift=node.shift,
            bias=None if node.bias is None else relative_bias(node.bias, score_unit),
        )

    def _probability_format(self, node: FloatSoftmaxAttention) -> AffineFormat:
        name = probabilities_of(node)
        if name in self.learned.formats:
            return self.learned.formats[name]
        watched = self.observers[node.name, "attention"] if self.config.attention_state == "head" else None
        return probability_format(watched, node.heads, self.config.act_bits_of(name), self.config.observer)

    # -- formats and records --

    def _output_format(self, node: FloatNode) -> AffineFormat:
        if node.name in self.learned.formats:
            return self.learned.formats[node.name]
        config, histogram = self.config, self.observers[node.name, "output"]
        kind, bits = map_format(self.graph, node, config), config.act_bits_of(node.name)
        if kind == "stream":
            return self._stream_format(node)
        if kind == "tensor":
            return AffineFormat.from_range(*affine_range(histogram, bits, config.observer), bits)
        if kind != "channel":
            chosen = {"migration": migrated_format, "shift": shifted_format}[kind]
            return chosen(histogram, bits, search=config.observer == "mse")
        readers = [
            _direct(reader, seen, node.name, len(histogram.counts)) for reader, seen in consumers(self.graph, node)
        ]
        attention = [reader for reader in readers if isinstance(reader, FloatAttention)]
        if any(isinstance(reader, FloatSoftmaxAttention) for reader in readers):
            return softmax_format(histogram, readers[0].heads, bits=bits, observer=config.observer)
        if attention:
            return attention_format(
                histogram,
                attention[0].head_dim,
                bits=bits,
                observer=config.observer,
                attention_only=len(readers) == 1,
            )
        return equalized_format(
            histogram,
            [_noise_reader(reader, node.name, len(histogram.counts), config) for reader in readers],
            act_bits=bits,
            observer=config.observer,
            # The residual operand has one zero-point.
            shared_zero=any(reader.inputs[0] != node.name for reader in readers),
        )

    def _scores_format(self, node: FloatNode) -> AffineFormat:
        return AffineFormat.symmetric(self._largest(node) / SCORE_SHARE, numerics.OPERAND_BITS)

    def _stream_format(self, node: FloatNode) -> AffineFormat:
        """Of a stream, and of what is made of it in the same scale."""
        made = [reader for reader in self.graph.readers[node.name] if isinstance(reader, FloatTokens)]
        largest = max(self._largest(x) for x in (node, *made))
        return AffineFormat.symmetric(largest / STREAM_SHARE, self.config.stream_bits)

    def _largest(self, node: FloatNode) -> float:
        observer = self.observers[node.name, "output"]
        return max(float(observer.maximum), -float(observer.minimum)) or 1.0

    def _requant(
        self,
        node: FloatNode,
        form: AffineFormat,
        *,
        bias: Tensor,
        multiplier: Tensor,
        shift: Tensor,
        multiplier2: Tensor | None = None,
        **settings: object,
    ) -> Requant:
        """Record the format of the node's output, and give every channel its own values."""
        self.formats[node.name] = form
        channels = len(bias)

        def per_channel(values: Tensor) -> Tensor:
            return values.expand(channels).clone()

        return Requant(
            bias=bias,
            multiplier=per_channel(multiplier),
            shift=per_channel(shift),
            zero_point=per_channel(form.zero),
            multiplier2=per_channel(torch.zeros(1, dtype=torch.int64) if multiplier2 is None else multiplier2),
            out_bits=form.bits,
            signed=form.signed,
            **settings,
        )


def _noise_reader(node: FloatConv, name: str, channels: int, config: QuantizerConfig) -> Reader:
    """How a convolution takes up noise in the tensor `name` of so many channels."""
    if node.inputs[0] != name:
        return Reader(torch.ones(channels, dtype=torch.float64))  # a residual sum passes it on
    weight = node.weight.double()
    if node.is_depthwise:
        return Reader(weight.square().sum((1, 2, 3)))
    # Grouped filters as full ones with zeros.
    outputs, per_group, kernel, _ = weight.shape
    full = torch.zeros(node.groups, outputs // node.groups, node.groups, per_group, kernel * kernel).double()
    for group in range(node.groups):
        full[group, :, group] = weight.flatten(2).reshape(node.groups, -1, per_group, kernel * kernel)[group]
    full = full.reshape(outputs, channels, kernel * kernel)
    weight = full.sum(2) if kernel == 1 else None
    return Reader(full.square().sum((0, 2)), weight, config.weight_bits_of(node.name))


def _direct(reader: FloatNode, seen: str, name: str, channels: int) -> FloatNode:
    """What reads the tensor `seen`, tokens of `name` side by side, as a reader of `name`."""
    if seen == name:
        return reader
    return replace(reader, inputs=(name,), weight=reader.weight.reshape(-1, channels, 1, 1))


def _norm_epsilon(epsilon: float, elements: int, source: AffineFormat) -> int:
    """The integer that `numerics.normalise` adds, for a tensor of one scale."""
    return min(max(round(epsilon * elements**2 / float(source.scale) ** 2), 1), EPSILON_LIMIT - 1)


def _norm_steps(gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Real value of one unit of a normalised element, and the integer to add to it, of each channel."""
    gain, shift = gain.double(), shift.double()
    one = 1 << numerics.NORM_FRACTION_BITS
    # A gain that is next to nothing beside its shift would make the bias too large.
    least = shift.abs() * one / BIAS_LIMIT
    gain = torch.where(gain.abs() < least, torch.where(gain < 0, -least, least), gain)
    bias = torch.where(gain == 0, 0.0, shift * one / torch.where(gain == 0, 1.0, gain))
    return gain / one, torch.round(bias).long()


def _inverse_hardswish(y: float) -> float:
    """The non-negative x with hardswish(x) = y >= 0."""
    return y if y >= 3.0 else (math.sqrt(9.0 + 24.0 * y) - 3.0) / 2.0


def _inverse_gelu(y: float) -> float:
    """An x that is not below the one with gelu(x) = y >= 0: a value is at most 0.17 below its argument."""
    return y + 0.17


#: of an activation function, the table, and from which argument on its value is beyond a given one
TABLES = {"hardswish": (hardswish_table, _inverse_hardswish), "gelu": (gelu_table, _inverse_gelu)}
