"""Which accelerator for a network and a device: lanes, memories, and ports whose Pareto front is cycles against size.

Candidates are all configurations whose estimated resources fit the device. A bound of their cycles comes from the
layers' shapes; the compiler's prediction, which takes seconds, is asked in rounds, only of candidates that could still
be better than everything predicted so far.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

from compiler.checks import check_network
from compiler.compile import compile_network
from compiler.devices import Device
from compiler.errors import CompileError
from compiler.resources import ResourceError, estimate_resources
from compiler.shapes import Shape, head_tiles, infer_shapes
from hw.config import DW_TAPS, KERNEL_ROWS, AcceleratorConfig, ConfigError, Multipliers
from quant.integer_network import Conv, IntegerNetwork, LinearAttention

__all__ = ["Candidate", "Point", "candidates", "explore", "least_cycles", "predict"]

ROUND = (
    8  #: candidates that are compiled before the next ones are chosen; fixed, so that results do not depend on workers
)

PIXELS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
LANES = (4, 8, 16, 32, 64)
PAD_WORDS = (1024, 2048, 4096, 8192)
STYLES = {
    "xcup": (Multipliers.DSP48E2, Multipliers.PACKED),
    "xc7": (Multipliers.PLAIN,),
    "ecp5": (Multipliers.PLAIN,),
    "gowin": (Multipliers.PLAIN,),
}
BUSES = {"xcup": ((128, 1), (128, 2), (128, 4)), "xc7": ((64, 1), (64, 2), (64, 4))}
SMALL_BUSES = ((64, 1), (64, 2))

#: cycles per frame or, if it cannot be compiled, why; of some configurations
Predict = Callable[[Sequence[AcceleratorConfig]], list[dict[str, object]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """A configuration that fits, what it takes of the device, and cycles per frame that it cannot beat."""

    config: AcceleratorConfig
    used: dict[str, float]
    share: float  #: the largest of its shares of the device
    bound: float


@dataclass(frozen=True)
class Point:
    """A candidate that was compiled."""

    candidate: Candidate
    cycles: float


def predict(network: IntegerNetwork, config: AcceleratorConfig, batch: int) -> dict[str, object]:
    """Cycles and multiply-accumulates per frame of a run of `batch` frames, or the obstacle to compiling it."""
    try:
        program = compile_network(network, config, batch=batch)
    except CompileError as error:
        return {"obstacle": error.obstacles[0].why}
    return {"cycles": program.predicted_cycles / batch, "macs": program.macs // batch}


def explore(
    found: Sequence[Candidate], predicted: Predict, limit: int, progress: Progress | None = None
) -> list[Point]:
    """The Pareto front of cycles per frame against share of the device, fastest first.

    Compiles at most `limit` candidates. A candidate that cannot be better than one already compiled is left out.
    """
    points: list[Point] = []
    remaining, compiled = list(found), 0
    while remaining and compiled < limit:
        chosen = _spread(_front(remaining), min(ROUND, limit - compiled))
        for candidate, result in zip(chosen, predicted([c.config for c in chosen]), strict=True):
            if "cycles" in result:
                points.append(Point(candidate, float(result["cycles"])))
        compiled += len(chosen)
        remaining = [c for c in remaining if c not in chosen and not any(_covers(p, c) for p in points)]
        if progress:
            progress(compiled, limit)
    points.sort(key=lambda p: (p.cycles, p.candidate.share))
    best: list[Point] = []
    for point in points:
        if not best or point.candidate.share < best[-1].candidate.share:
            best.append(point)
    return best


def _covers(point: Point, candidate: Candidate) -> bool:
    return point.cycles <= candidate.bound and point.candidate.share <= candidate.share


def _front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that none beats in both bound and share."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.bound, c.share)):
        if not front or candidate.share < front[-1].share:
            front.append(candidate)
    return front


def _spread(front: list[Candidate], count: int) -> list[Candidate]:
    """`count` of them from the whole front, the fastest one included."""
    if len(front) <= count:
        return front
    return [front[i * len(front) // count] for i in range(count)]


# -- candidates --


def candidates(
    network: IntegerNetwork, device: Device, base: AcceleratorConfig, *, batch: int = 1, fill: float = 0.85
) -> list[Candidate]:
    """All configurations that fit the device, with at most `fill` of its LUTs and flip-flops.

    Bit-widths and what is not searched are those of `base`. Raises `ResourceError` if the family was not calibrated,
    `CompileError` if the network fits no lanes.
    """
    shapes = infer_shapes(network)
    limits = {"lut": fill, "flip_flop": fill, "block_ram": 1.0, "dsp": 1.0}
    styles = _styles(base, device.target)
    result = []
    for ti, to in _lane_sizes(network, base, shapes):
        for lanes in _lane_choices(network, base, (ti, to), shapes, styles):
            bound = least_cycles(network, shapes, lanes, batch)
            for config in _with_memories(lanes, device.target, lambda c: _fits(c, device, limits)):
                used = estimate_resources(config, device.target).total
                bus = weight_bytes(network, config, batch) / (config.bus_bytes * config.bus_ports)
                result.append(Candidate(config, used, max(device.shares(used).values()), max(bound, bus)))
    return result


def _lane_sizes(
    network: IntegerNetwork, base: AcceleratorConfig, shapes: dict[str, Shape]
) -> Iterator[tuple[int, int]]:
    """Ti and To that the network's layers fill. Raises `CompileError` if there are none."""
    refusal, found = None, False
    for ti, to in product(LANES, LANES):
        probe = base.replace(in_lanes=ti, out_lanes=to, requant_channels=1, state_lanes=1, state_tiles=256)
        try:
            check_network(network, probe, shapes)
        except CompileError as error:
            refusal = error
            continue
        found = True
        yield ti, to
    if not found:
        raise refusal


def _styles(base: AcceleratorConfig, target: str) -> list[dict[str, object]]:
    """Multipliers of the MAC array and of the small engines of which something was measured on the family."""
    choices = [{"multiplier": s, "logic_engines": logic} for s in STYLES[target] for logic in (False, True)]
    refusal, found = None, []
    for choice in choices:
        try:
            estimate_resources(base.replace(**choice), target)
        except ResourceError as error:
            refusal = error
        else:
            found.append(choice)
    if not found:
        raise refusal
    return found


def _fits(config: AcceleratorConfig, device: Device, limits: dict[str, float]) -> bool:
    shares = device.shares(estimate_resources(config, device.target).total)
    return all(shares[kind] <= limits[kind] for kind in limits)


def _lane_choices(
    network: IntegerNetwork,
    base: AcceleratorConfig,
    sizes: tuple[int, int],
    shapes: dict[str, Shape],
    styles: Sequence[dict[str, object]],
) -> Iterator[AcceleratorConfig]:
    """All lanes with Ti and To of `sizes`; what only has to be large enough follows from them and the network."""
    ti, to = sizes
    width = max(shapes[node.name].width for node in network.nodes if node.inputs)
    heads = [node.head_dim for node in network.nodes if isinstance(node, LinearAttention)]
    tiles = max((head_tiles(d, base.replace(in_lanes=ti, out_lanes=to, requant_channels=1)) for d in heads), default=1)
    held = max(2, 1 << (2 * tiles - 1).bit_length())  # states of two heads
    for pixels, style in product(PIXELS, styles):
        depth = max(32, 1 << (ceil(width / pixels) - 1).bit_length())
        for dw_pixels in sorted({pixels, ceil(pixels / 2), ceil(pixels / 4)}):
            for channels in (c for c in (1, 2, 4, 8, 16) if c <= min(ti, to)):
                yield base.replace(
                    name=f"p{pixels}i{ti}o{to}", pixels=pixels, in_lanes=ti, out_lanes=to, dw_pixels=dw_pixels,
                    requant_channels=channels,
                    acc_depth=depth, state_lanes=channels, state_tiles=held, **style,
                )  # fmt: skip


def _with_memories(
    config: AcceleratorConfig, target: str, fits: Callable[[AcceleratorConfig], bool]
) -> Iterator[AcceleratorConfig]:
    """Lanes with all scratchpads and buses that fit; larger ones are not tried where smaller ones do not."""
    for bus_bits, ports in BUSES.get(target, SMALL_BUSES):
        for words in PAD_WORDS:
            try:
                choice = config.replace(
                    bus_bits=bus_bits, bus_ports=ports, stream_bits=bus_bits * ports, pad_words=(words,) * 4
                )
            except ConfigError:
                continue
            if not fits(choice):
                if words == PAD_WORDS[0]:
                    return
                break
            yield choice


# -- bounds --


def least_cycles(network: IntegerNetwork, shapes: dict[str, Shape], config: AcceleratorConfig, batch: int) -> float:
    """Cycles per frame that the MAC array, its requantizers, or the depthwise engine take at least."""
    array = requantizer = depthwise = 0.0
    for node in network.nodes:
        if not isinstance(node, Conv):
            continue
        shape = shapes[node.name]
        words = shape.height * ceil(shape.width / config.pixels)
        if shape.height == shape.width == 1:  # frames share the words of fully connected layers
            words = ceil(batch / config.pixels) / batch
        per_group, kernel = node.weight.shape[1], node.weight.shape[-1]
        if node.groups == shape.channels and node.groups > 1:
            passes = kernel * ceil(kernel / DW_TAPS)
            chunks = ceil(config.pixels / config.dw_pixels)
            depthwise += ceil(shape.channels / config.in_lanes) * words * chunks * max(passes, config.subblocks)
            continue
        blocks = ceil(per_group / config.in_lanes) if kernel == 1 else KERNEL_ROWS * config.stem_blocks
        array += words * blocks * ceil(shape.channels / config.out_lanes)
        requantizer += words * ceil(shape.channels / config.requant_channels)
    return max(array, requantizer, depthwise)


def weight_bytes(network: IntegerNetwork, config: AcceleratorConfig, batch: int) -> float:
    """Bytes of weights that a frame takes at least from external memory, once per run for fully connected layers."""
    total = 0.0
    shapes = infer_shapes(network)
    for node in network.nodes:
        if isinstance(node, Conv):
            joined = batch if shapes[node.name].height == shapes[node.name].width == 1 else 1
            total += node.weight.numel() * config.operand_bits / 8 / joined
    return total
