"""Can this network run on this configuration, and can no accumulator overflow? Answered before anything is made."""

from collections.abc import Iterator
from math import ceil

from compiler.errors import CompileError, Obstacle
from compiler.shapes import Shape, head_tiles
from hw.config import AcceleratorConfig
from quant import numerics
from quant.integer_network import (
    AveragePool,
    Conv,
    Input,
    IntegerNetwork,
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

__all__ = ["check_network"]

RUN_ELSEWHERE = "`IntegerNetwork.run` computes it; accelerators run EfficientViT"

#: what the accelerator does not do
UNSUPPORTED = {
    PatchConv: "a convolution of patches",
    Tokens: "learned tokens and positions",
    Merge: "the merging of pixels",
    Select: "a choice of tokens",
    Rectify: "the rectification of queries and keys",
    SoftmaxAttention: "softmax attention",
}


def check_network(network: IntegerNetwork, config: AcceleratorConfig, shapes: dict[str, Shape], batch: int = 1) -> None:
    """Raise `CompileError` with every obstacle; return if the network can be mapped, memories aside."""
    obstacles = [o for node in network.nodes for o in _node_obstacles(network, node, config, shapes)]
    if batch > (most := config.acc_depth * config.pixels):
        obstacles.append(Obstacle("batch", f"{batch} frames take more than acc_depth words", f"run at most {most}"))
    if obstacles:
        raise CompileError(obstacles)


def _node_obstacles(
    network: IntegerNetwork, node: Node, config: AcceleratorConfig, shapes: dict[str, Shape]
) -> Iterator[Obstacle]:
    def unless(condition: bool, why: str, what_to_do: str) -> Iterator[Obstacle]:
        if not condition:
            yield Obstacle(node.name, why, what_to_do)

    if type(node) in UNSUPPORTED:
        yield Obstacle(node.name, f"no engine for {UNSUPPORTED[type(node)]}", RUN_ELSEWHERE)
        return
    shape = shapes[node.name]
    groups = ceil(shape.width / config.pixels)
    yield from unless(
        isinstance(node, Input) or groups <= config.acc_depth,
        f"a row of {shape.width} pixels takes {groups} words, but acc_depth is {config.acc_depth}",
        f"raise acc_depth to at least {groups}, or pixels",
    )
    requant = getattr(node, "requant", None)
    if requant is not None:
        last = node is network.nodes[-1]
        yield from _requant_obstacles(node, requant, last, config)
    if isinstance(node, AveragePool):
        yield from _act_bits_obstacles(node, node.out_bits, config)
    if isinstance(node, Input):
        yield from unless(
            node.channels == 3 and node.size % 32 == 0 and 32 <= node.size <= 1024,
            f"input is {node.channels} x {node.size} x {node.size}",
            "use 3-channel square images whose size is a multiple of 32",
        )
        yield from unless(
            node.bits == config.act_bits,
            f"input codes have {node.bits} bits, the accelerator's {config.act_bits}",
            "quantize again or change act_bits",
        )
    elif isinstance(node, Conv):
        yield from _conv_obstacles(network, node, config, shapes)
    elif isinstance(node, LinearAttention):
        yield from _attention_obstacles(node, config, shapes)
    elif isinstance(node, AveragePool):
        source = shapes[node.inputs[0]]
        most = source.height * source.width * numerics.code_range(config.act_bits)[1] + abs(node.bias)
        yield from _fits(node, "pooling sums", most, config)
    elif isinstance(node, LayerNorm):
        yield from unless(
            1 <= node.epsilon < 1 << 40 and shapes[node.inputs[0]].channels < 1 << 12,
            f"epsilon {node.epsilon} or {shapes[node.inputs[0]].channels} channels out of range",
            "use 1 <= epsilon < 2**40 and fewer than 4096 channels",
        )
        yield from unless(
            shape.height == shape.width == 1 and not network.widths()[node.inputs[0]].signed,
            f"its input is a map of {shape.height} x {shape.width} pixels, or signed",
            RUN_ELSEWHERE,
        )


def _fits(node: Node, what: str, magnitude: int, config: AcceleratorConfig) -> Iterator[Obstacle]:
    if magnitude >= 1 << (config.acc_bits - 1):
        bits = int(magnitude).bit_length() + 1
        yield Obstacle(
            node.name, f"{what} reach {magnitude}, which takes {bits} bits", f"raise acc_bits to at least {bits}"
        )


def _requant_obstacles(node: Node, requant: Requant, last: bool, config: AcceleratorConfig) -> Iterator[Obstacle]:
    if requant.signed != last or (last and requant.out_bits != numerics.OPERAND_BITS):
        yield Obstacle(
            node.name,
            f"output has {requant.out_bits} {'signed' if requant.signed else 'unsigned'} bits",
            f"use {config.act_bits} or fewer unsigned bits (class scores: {numerics.OPERAND_BITS} signed)",
        )
    elif not last:
        yield from _act_bits_obstacles(node, requant.out_bits, config)
    if requant.table is not None and len(requant.table) != 1 << config.table_index_bits:
        yield Obstacle(
            node.name,
            f"its activation table has {len(requant.table)} entries",
            f"quantize with table_index_bits = {config.table_index_bits}, or change the configuration",
        )


def _act_bits_obstacles(node: Node, bits: int, config: AcceleratorConfig) -> Iterator[Obstacle]:
    if bits > config.act_bits:
        yield Obstacle(
            node.name,
            f"output codes have {bits} bits, the accelerator's {config.act_bits}",
            f"quantize with act_bits <= {config.act_bits}, or raise act_bits",
        )


def _conv_obstacles(
    network: IntegerNetwork, node: Conv, config: AcceleratorConfig, shapes: dict[str, Shape]
) -> Iterator[Obstacle]:
    if node.weight_bits > config.weight_bits:
        yield Obstacle(
            node.name,
            f"weights have {node.weight_bits} bits, the accelerator's {config.weight_bits}",
            f"quantize with weight_bits <= {config.weight_bits}, or raise weight_bits",
        )
    stem = isinstance(network[node.inputs[0]], Input)
    shape_ok = (
        (node.kernel == 3 and node.stride == 2 and node.groups == 1)
        if stem
        else (node.is_depthwise and node.kernel in (3, 5) and node.stride in (1, 2))
        or (node.kernel == 1 and node.stride == 1 and not node.is_depthwise)
    )
    if not shape_ok:
        yield Obstacle(
            node.name,
            f"no engine for a {node.kernel}x{node.kernel} convolution, stride {node.stride}, {node.groups} groups",
            "supported: 3x3 stride 2 on the image, 1x1, grouped 1x1, depthwise 3x3 and 5x5 with stride 1 or 2",
        )
    weight = node.weight.long().flatten(1)
    top = numerics.code_range(config.act_bits)[1]
    most = max(int(weight.clamp(min=0).sum(1).max()), int(-weight.clamp(max=0).sum(1).min())) * top
    yield from _fits(node, "accumulators", most, config)


def _attention_obstacles(
    node: LinearAttention, config: AcceleratorConfig, shapes: dict[str, Shape]
) -> Iterator[Obstacle]:
    d = node.head_dim
    if d % config.in_lanes:
        yield Obstacle(
            node.name,
            f"heads of {d} channels do not fill whole words of {config.in_lanes} channels",
            f"use in_lanes that divide {d}",
        )
        return
    for name in ("state_bits", "mantissa_bits"):
        field = {"mantissa_bits": "divisor_mantissa_bits"}.get(name, name)
        if getattr(node, name) != getattr(config, field):
            yield Obstacle(
                node.name, f"{field} is {getattr(node, name)} in the network, {getattr(config, field)} in hardware",
                "quantize again with the accelerator's value",
            )  # fmt: skip
    if node.divisor_multiplier is not None:
        yield Obstacle(
            node.name,
            "its divisors are 8-bit codes with uniform steps, which no hardware makes",
            'quantize with divisor = "reciprocal"; divisor_mantissa_bits = 0 gives power-of-two divisors',
        )
    tiles = head_tiles(d, config)
    if tiles > config.state_tiles:
        yield Obstacle(
            node.name,
            f"the state of one head takes {tiles} tiles, but state_tiles is {config.state_tiles}",
            f"raise state_tiles to {tiles} or more (twice that to overlap two heads)",
        )
    shape = shapes[node.inputs[0]]
    top = numerics.code_range(config.act_bits)[1]
    # With 0 mantissa bits the exponent of a divisor is rounded up.
    exponent = (d * top * numerics.weight_range(config.state_bits)[1]).bit_length()
    shift, most = int(node.requant.shift.max()), (1 << numerics.SHIFT_BITS) - 1
    if shift + exponent > most:
        yield Obstacle(
            node.name,
            f"its quotients are shifted by {shift}, and by up to {exponent} for the divisor: together more than {most}",
            "quantize again",
        )
    yield from _fits(node, "attention states", shape.height * shape.width * top * top, config)
    state_top = numerics.weight_range(config.state_bits)[1]
    yield from _fits(node, "attention numerators", d * top * state_top, config)
