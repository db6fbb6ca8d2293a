"""IntegerNetwork -> instructions: row bands where maps are large, channel chunks where they are small.

Rows are made on demand: to make a band of a node's rows, the rows of its inputs that it needs are made first. One walk
over the network plans the steps and learns how many rows of each map live at a time; the steps of several frames are
interleaved; then buffers get their places, and the steps are emitted. Their order is a valid sequential program;
`compiler.schedule` finds the parallelism in it.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from math import ceil, lcm

import numpy as np

from compiler.batch import Batch
from compiler.buffers import Buffer, Lifetime, Reads, allocate, buffer_for
from compiler.errors import CompileError, Obstacle
from compiler.instructions import STATE_BUFFER, Instruction, Parameters
from compiler.parameters import (
    depthwise_parameters,
    groups_per_matmul_group,
    matmul_parameters,
    matmul_weights,
    requant_parameters,
)
from compiler.parts import chunk_channels, in_parts
from compiler.shapes import Shape, head_tiles
from hw.config import KERNEL_ROWS, AcceleratorConfig
from hw.control.descriptors import Engine
from quant.integer_network import AveragePool, Conv, Input, LayerNorm, LinearAttention, Node, Requant
from quant.numerics import Operand, code_range

__all__ = ["Lowered", "lower"]

#: right shifts of the words in a band: long bands reuse weights, short ones take less memory
BANDS = (0, 1, 2, 16)
SLACKS = (2, 1, 0)  #: extra bands per ring let engines overlap; the first one that fits the scratchpads is used
#: work of a frame that is left to do when the next one begins, in parts of the whole
OVERLAPS = (0.75, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class Step:
    """Rows and channels of a node that are made at once, and the maps that are read; without channels, rows that are
    stored."""

    node: Node
    rows: range
    channels: range
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreRequest:
    """Rows of a node's map that a STORE instruction (by index) writes to the result area."""

    instruction: int
    node: str
    row: int
    rows: int


@dataclass(frozen=True)
class Lowered:
    """Instructions of a batch in sequential order, and the placed buffers."""

    batch: Batch
    instructions: list[Instruction]
    buffers: dict[str, Buffer]
    stores: list[StoreRequest]


def lower(batch: Batch, config: AcceleratorConfig, *, trace: bool) -> Iterator[Lowered]:
    """Emit the instructions of one run, in one way for each length of bands and overlap of its frames that fits the
    scratchpads; bands of single rows only if no others do, maps in parts only if nothing else does. With `trace`,
    every node's map is stored to the result area as well.

    Raises `CompileError` if no choice fits the scratchpads.
    """
    ways = (batch, in_parts(batch, config))
    for way in ways:
        stuck = yield from _lower(way, config, trace)
        if not stuck:
            return
    shape = ways[-1].shapes.get(stuck)
    size = f"{shape.channels} x {shape.height} x {shape.width}" if shape else "unrolled image rows"
    raise CompileError(
        [Obstacle(stuck, f"no scratchpad has room for its map ({size})", "raise pad_words, or use a smaller image")]
    )


def _lower(batch: Batch, config: AcceleratorConfig, trace: bool) -> Generator[Lowered, None, str]:
    """Like `lower`, with the maps of this batch; returns the name of one without room, if nothing fits."""
    fits, stuck = False, ""
    for shift in BANDS:
        if fits and shift == BANDS[-1]:
            break
        for overlap in OVERLAPS if batch.frames > 1 else (0.0,):
            plan = _Plan(batch, config, trace, config.acc_depth >> shift)
            plan.walk()
            plan.interleave(overlap)
            for slack in SLACKS:
                placed = allocate(plan.lifetimes(slack), config.pad_words)
                if isinstance(placed, dict):
                    plan.emit(placed)
                    yield Lowered(batch, plan.instructions, placed, plan.stores)
                    fits = True
                    break
                stuck = placed
    return "" if fits else stuck


class _Plan:
    """The steps of one run for one choice of bands; see `lower`."""

    def __init__(self, batch: Batch, config: AcceleratorConfig, trace: bool, band_words: int) -> None:
        self.batch, self.config, self.trace = batch, config, trace
        self.nodes: dict[str, Node] = {node.name: node for node in batch.nodes}
        self.last = batch.nodes[-1]
        self.consumers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in batch.nodes:
            for name in node.inputs:
                self.consumers[name].append(node)
        self.shapes = dict(batch.shapes)
        for node in batch.nodes:
            if isinstance(node, Input):
                # images exist in scratchpads only as unrolled rows, in the geometry of the stem's output
                out = batch.shapes[self.consumers[node.name][0].name]
                channels = KERNEL_ROWS * config.stem_blocks * config.in_lanes
                self.shapes[node.name] = Shape(channels, out.height, out.width)
        self.band_words = band_words
        self.chunks = self._chunk_channels()
        self.instructions: list[Instruction] = []
        self.stores: list[StoreRequest] = []
        self.buffers: dict[str, Buffer] = {}

    # -- geometry --

    def band_rows(self, name: str) -> int:
        """Rows of a node that one instruction makes."""
        shape = self.shapes[name]
        rows = self.band_words // ceil(shape.width / self.config.pixels)
        return max(1, min(shape.height, rows, 255))

    def is_whole(self, name: str) -> bool:
        """The map fits one instruction, so that the node may be cut by channels instead of rows."""
        return self.band_rows(name) == self.shapes[name].height

    def _chunk_channels(self) -> dict[str, int]:
        chunks = dict.fromkeys(self.nodes, chunk_channels(self.config))
        for node in self.batch.nodes:  # everything on the way to an attention is cut by heads that fill whole tiles
            names = list(node.inputs) if isinstance(node, LinearAttention) else []
            while names:
                name = names.pop()
                width = lcm(3 * node.head_dim, self.config.out_lanes)
                if name not in chunks or chunks[name] == width:
                    continue
                chunks[name] = width
                maker = self.nodes[name]
                if isinstance(maker, Conv) and maker.groups > 1:
                    names.extend(maker.inputs)
        for node in self.batch.nodes:  # groups that the MAC array takes as one are made as one
            if isinstance(node, Conv) and not node.is_depthwise and node.groups > 1:
                group = self._matmul_group(node)
                chunks[node.name] = ceil(chunks[node.name] / group) * group
        return chunks

    def rows_needed(self, node: Node, source: str, row: int) -> tuple[int, int]:
        """First and last+1 input rows that a node's rows from `row` on, and up to `row`, need."""
        height = self.shapes[source].height
        if isinstance(node, Conv) and node.is_depthwise:
            reach = node.kernel // 2
            return max(0, row * node.stride - reach), min(height, (row - 1) * node.stride + reach + 1)
        if isinstance(node, (LinearAttention, AveragePool)):
            return 0, height
        return row, row

    # -- the walk --

    def walk(self) -> None:
        """Plan how everything is made on demand, from the last node: the steps, and how many rows live at a time."""
        self.steps: list[Step] = []
        self.rows_made = dict.fromkeys(self.nodes, 0)
        self.channels_made = dict.fromkeys(self.nodes, 0)
        self.live_rows = dict.fromkeys(self.nodes, 1)
        self._ensure(self.last.name, self.shapes[self.last.name].height, self.shapes[self.last.name].channels)

    def interleave(self, overlap: float) -> None:
        """Reorder the steps so that a frame begins when `overlap` of the work of the one before is left to do.

        Frames keep their own order; where two overlap, both advance at the same rate.
        """
        work = dict.fromkeys((*range(self.batch.frames), None), 0)
        times = []
        for step in self.steps:
            frame = self._frame(step)
            times.append((frame, work[frame]))
            work[frame] += self._work(step)
        period = (1.0 - overlap) * work[0]

        def key(index: int) -> tuple[float, int]:
            frame, time = times[index]
            # What follows the pooling of all frames comes last.
            return (float("inf") if frame is None else frame * period + time, index)

        self.steps = [self.steps[index] for index in sorted(range(len(self.steps)), key=key)]

    def _frame(self, step: Step) -> int | None:
        pooled = isinstance(step.node, AveragePool) and step.sources
        return self.batch.frame_of[step.sources[0] if pooled else step.node.name]

    def _work(self, step: Step) -> int:
        """Multiply-accumulates of the MAC array, about."""
        if not isinstance(step.node, Conv) or step.node.is_depthwise:
            return 0
        return (
            len(step.rows) * self.shapes[step.node.name].width * len(step.channels) * step.node.weight.shape[1:].numel()
        )

    def emit(self, buffers: dict[str, Buffer]) -> None:
        """Emit all steps, with placed buffers."""
        self.buffers = buffers
        for step in self.steps:
            self._emit(step)

    def _ensure(self, name: str, row_end: int, channel_end: int) -> None:
        """Make rows of a node up to `row_end`; of a whole map, channels up to `channel_end`."""
        node, shape = self.nodes[name], self.shapes[name]
        if isinstance(node, LinearAttention):
            return self._ensure_attention(node)
        if isinstance(node, AveragePool):
            return self._ensure_pool(node)
        if self.is_whole(name) and not isinstance(node, (Input, LayerNorm)):
            while self.channels_made[name] < min(channel_end, shape.channels):
                first = self.channels_made[name]
                channels = range(first, min(first + self.chunks[name], shape.channels))
                self._require(node, shape.height, channels)
                self._made(node, range(shape.height), channels, node.inputs)
                self.channels_made[name] = channels.stop
            return None
        while self.rows_made[name] < row_end:
            first = self.rows_made[name]
            rows = range(first, min(first + self.band_rows(name), shape.height))
            self._require(node, rows.stop, range(shape.channels))
            self._made(node, rows, range(shape.channels), node.inputs)
        return None

    def _require(self, node: Node, row_end: int, channels: range) -> None:
        for source in node.inputs:
            needed = self._channels_needed(node, source, channels.stop)
            self._ensure(source, self.rows_needed(node, source, row_end)[1], needed)

    def _channels_needed(self, node: Node, source: str, channel_end: int) -> int:
        """Input channels, from the first one on, that a node's channels up to `channel_end` need."""
        if not isinstance(node, Conv) or node.groups == 1:
            return self.shapes[source].channels
        if node.is_depthwise:
            return channel_end
        groups = ceil(channel_end / self._matmul_group(node))
        inputs = groups * groups_per_matmul_group(node, self.config) * node.weight.shape[1]
        return max(inputs, channel_end)  # of the residual

    def _matmul_group(self, node: Conv) -> int:
        """Output channels of the groups of a 1x1 convolution that the MAC array takes as one."""
        return len(node.weight) // node.groups * groups_per_matmul_group(node, self.config)

    def _ensure_attention(self, node: LinearAttention) -> None:
        shape, d = self.shapes[node.name], node.head_dim
        if self.rows_made[node.name]:
            return
        heads = self.shapes[node.inputs[0]].channels // (3 * d)
        sources = [name for name in self.nodes if name in node.inputs]  # in the order in which parts are made
        for head in range(heads):
            for source in sources:
                self._ensure(source, self.shapes[source].height, 3 * d * (head + 1))
                first = (node.inputs.index(source) * heads + head) * d
                self._made(node, range(shape.height), range(first, first + d), (source,))

    def _ensure_pool(self, node: AveragePool) -> None:
        """A pixel for each frame."""
        if self.rows_made[node.name]:
            return
        for source in node.inputs:
            shape, offset = self.shapes[source], self.batch.first_channel[source]
            for first in range(0, shape.channels, self.chunks[source]):
                stop = min(first + self.chunks[source], shape.channels)
                self._ensure(source, shape.height, stop)
                self._made(node, range(1), range(offset + first, offset + stop), (source,))

    def _made(self, node: Node, rows: range, channels: range, sources: tuple[str, ...]) -> None:
        """A band or chunk of a node is about to be made, its inputs exist."""
        step = Step(node, rows, channels, sources)
        self.steps.append(step)
        last_channels = channels.stop == self.shapes[node.name].channels
        if isinstance(node, AveragePool):
            last_channels &= self._frame(step) == self.batch.frames - 1
        # Inputs of an attention or a pooling are read until the last head or frame is made.
        if last_channels or not isinstance(node, (LinearAttention, AveragePool)):
            self.rows_made[node.name] = rows.stop
        if self.trace and last_channels and not isinstance(node, Input) and node is not self.last:
            self.steps.append(Step(node, rows, range(0)))
        oldest = min(
            (self._oldest_needed(reader, node.name) for reader in self.consumers[node.name]), default=rows.start
        )
        self.live_rows[node.name] = max(self.live_rows[node.name], rows.stop - min(oldest, rows.start))

    def _oldest_needed(self, reader: Node, source: str) -> int:
        made = self.rows_made[reader.name]
        complete = made == self.shapes[reader.name].height
        if complete and (not self.is_whole(reader.name) or isinstance(reader, (LinearAttention, AveragePool))):
            return self.shapes[source].height
        return self.rows_needed(reader, source, 0 if complete else made)[0]

    def lifetimes(self, slack: int) -> list[Lifetime]:
        """Unplaced buffers of the steps in their order."""
        touched: dict[str, list[int]] = {}
        reads: dict[str, dict[str, Reads]] = {}
        now = 0.0
        for index, step in enumerate(self.steps):
            later = now + self._cycles(step)
            for name in (step.node.name, *step.sources):
                touched.setdefault(name, [index, index])[1] = index
            for name, port, words in self._reads(step):
                before = reads.setdefault(name, {}).get(port, Reads(0, now, now))
                reads[name][port] = Reads(before.words + words, before.first, later)
            now = later
        result = []
        for name, (first, end) in touched.items():
            ring = self.live_rows[name] + slack * self._slack_rows(name)
            buffer = buffer_for(name, self.shapes[name], self.config, ring)
            if name == self.last.name:
                buffer = replace(buffer, blocks=buffer.blocks * self.config.slices)
            result.append(Lifetime(buffer, first, end, self._preferred_pads(name, len(result)), reads.get(name, {})))
        return result

    def _cycles(self, step: Step) -> float:
        """Cycles of the MAC array, or of its drain, about."""
        node, config = step.node, self.config
        if not isinstance(node, Conv) or node.is_depthwise or not step.channels:
            return 0.0
        words = len(step.rows) * self._groups(node.name) * ceil(len(step.channels) / config.out_lanes)
        return words * max(ceil(node.weight.shape[1] / config.in_lanes), config.out_lanes // config.requant_channels)

    def _reads(self, step: Step) -> Iterator[tuple[str, str, int]]:
        """Map, reading port, and words of everything that a step reads, about."""
        node, config = step.node, self.config
        if not step.channels:
            yield node.name, "store", len(step.rows) * self._groups(node.name)
            return
        words = len(step.rows) * self._groups(node.name) * len(self._blocks(step.channels))
        if isinstance(node, Input):
            return
        if isinstance(node, LayerNorm):
            yield step.sources[0], "norm", words
        elif isinstance(node, AveragePool):
            yield step.sources[0], "attention", words * self.shapes[step.sources[0]].height
        elif isinstance(node, LinearAttention):
            yield step.sources[0], "attention", 2 * words
            yield step.sources[0], "matmul", words
        elif node.is_depthwise:
            yield node.inputs[0], "depthwise", words * node.kernel * node.stride
        else:
            blocks = ceil(node.weight.shape[1] / config.in_lanes)
            yield node.inputs[0], "matmul", words * config.in_lanes // config.out_lanes * blocks
            for residual in node.inputs[1:]:
                yield residual, "residual", words

    def _slack_rows(self, name: str) -> int:
        """Rows that are made, or used up, at a time."""
        steps = [self.band_rows(name)]
        for reader in self.consumers[name]:
            stride = reader.stride if isinstance(reader, Conv) and reader.is_depthwise else 1
            steps.append(stride * self.band_rows(reader.name))
        return max(steps)

    def _preferred_pads(self, name: str, count: int) -> tuple[int, ...]:
        """Keep what the depthwise and the matmul engine read, and what they write, in different pads."""
        readers = self.consumers[name]
        if any(isinstance(r, Conv) and r.is_depthwise for r in readers):
            return (0, 3, 2, 1)
        maker = self.nodes[name]
        if isinstance(maker, Conv) and maker.is_depthwise:
            return (1, 2, 3, 0)
        return (2, 3, 1, 0) if count % 2 else (3, 2, 1, 0)

    # -- emission --

    def _emit(self, step: Step) -> None:
        node, rows, channels = step.node, step.rows, step.channels
        if not channels:
            self._emit_store(node.name, rows)
        elif isinstance(node, Input):
            self._emit_load(node, rows)
        elif isinstance(node, LinearAttention):
            self._emit_attention(node, channels, step.sources[0])
        elif isinstance(node, AveragePool):
            self._emit_pool(node, channels, step.sources[0])
        elif isinstance(node, LayerNorm):
            self._emit_norm(node)
        elif node.is_depthwise:
            self._emit_depthwise(node, rows, channels)
        else:
            self._emit_matmul(node, rows, channels)
        if node is self.last and channels and channels.stop == self.shapes[node.name].channels:
            self._emit_store(node.name, rows)

    def _parameter_key(self, node: Node, channels: range) -> tuple[str, int]:
        """Frames have their parameters in common."""
        name = node.name
        return self.batch.names[name], self.batch.first_channel[name] + channels.start

    def _blocks(self, channels: range) -> range:
        ti = self.config.in_lanes
        return range(channels.start // ti, ceil(channels.stop / ti))

    def _groups(self, name: str) -> int:
        return ceil(self.shapes[name].width / self.config.pixels)

    def _last_pixels(self, name: str) -> int:
        return self.shapes[name].width - (self._groups(name) - 1) * self.config.pixels

    def _emit_load(self, node: Input, rows: range) -> None:
        buffer = self.buffers[node.name]
        stem = self.consumers[node.name][0]
        codes = stem.pad_value.tolist()
        fields = {
            "destination": buffer.view(rows.start),
            "address": self.batch.frame_of[node.name] * node.size**2 * node.channels,
            "row_bytes": node.size * node.channels,
            "image_rows": node.size,
            "first_row": rows.start * stem.stride - stem.kernel // 2,
            "rows": len(rows),
            "groups_per_row": buffer.groups,
            **{f"pad_code{c}": codes[c] for c in range(3)},
        }
        self.instructions.append(
            Instruction(Engine.LOAD, self.batch.names[node.name], fields, writes=[(buffer.pad, buffer.addresses(rows))])
        )

    def _emit_matmul(self, node: Conv, rows: range, channels: range) -> None:
        config = self.config
        source_name = node.inputs[0]
        source, target = self.buffers[source_name], self.buffers[node.name]
        weights = matmul_weights(node, isinstance(self.nodes[source_name], Input), config)
        original = self.batch.names[node.name]
        in_blocks = ceil(weights.shape[2] / config.in_lanes)
        first_block, tiles_per_group = 0, 0
        if len(weights) > 1:
            tiles_per_group = weights.shape[1] // config.out_lanes
            first_block = channels.start // weights.shape[1] * in_blocks
        blocks = self._blocks(channels)
        wide = node.requant.signed
        fields = {
            "source": source.view(rows.start, first_block),
            "destination": target.view(rows.start, blocks.start),
            "rows": len(rows),
            "groups_per_row": self._groups(node.name),
            "in_blocks": in_blocks,
            "out_tiles": ceil(len(channels) / config.out_lanes),
            "tiles_per_group": tiles_per_group,
            "out_subblocks": ceil(len(channels) / config.requant_channels),
            "slice_stride": target.row_stride // config.slices if wide else 0,
            "requant": self._requant_fields(node.requant) | {"wide": int(wide)},
        }
        groups_used = ceil(len(channels) / weights.shape[1]) if len(weights) > 1 else 1
        reads = [(source.pad, source.addresses(rows, range(first_block, first_block + groups_used * in_blocks)))]
        writes = [(target.pad, target.addresses(rows, None if wide else blocks))]
        if len(node.inputs) > 1:
            residual = self.buffers[node.inputs[1]]
            fields["residual"] = residual.view(rows.start, blocks.start)
            reads.append((residual.pad, residual.addresses(rows, blocks)))
        self.instructions.append(
            Instruction(
                Engine.MATMUL, original, fields, reads, writes,
                Parameters(
                    self._parameter_key(node, channels),
                    lambda: matmul_parameters(weights, node.requant, channels, config),
                    node.requant,
                ),
                macs=len(rows) * self.shapes[node.name].width * len(channels) * node.weight.shape[1:].numel(),
            )
        )  # fmt: skip

    def _emit_depthwise(self, node: Conv, rows: range, channels: range) -> None:
        source, target = self.buffers[node.inputs[0]], self.buffers[node.name]
        first = max(0, rows.start * node.stride - node.kernel // 2)
        last = self.rows_needed(node, node.inputs[0], rows.stop)[1]
        blocks = self._blocks(channels)
        original = self.batch.names[node.name]
        fields = {
            "source": source.view(first, blocks.start),
            "destination": target.view(rows.start, blocks.start),
            "rows": len(rows),
            "groups_per_row": target.groups,
            "source_groups": source.groups,
            "last_pixels": self._last_pixels(node.inputs[0]),
            "blocks": len(blocks),
            "kernel5": int(node.kernel == 5),
            "stride2": int(node.stride == 2),
            "top": first - (rows.start * node.stride - node.kernel // 2),
            "source_rows": self.shapes[node.inputs[0]].height - first,
            "requant": self._requant_fields(node.requant),
        }
        self.instructions.append(
            Instruction(
                Engine.DEPTHWISE, original, fields,
                [(source.pad, source.addresses(range(first, last), blocks))],
                [(target.pad, target.addresses(rows, blocks))],
                Parameters(
                    self._parameter_key(node, channels),
                    lambda: depthwise_parameters(node, channels, self.config),
                    node.requant,
                ),
                macs=len(rows) * self.shapes[node.name].width * len(channels) * node.kernel**2,
            )
        )  # fmt: skip

    def _emit_attention(self, node: LinearAttention, channels: range, source_name: str) -> None:
        """State of one head, then its numerators and quotients; `channels` are the head's output channels."""
        config, d, original = self.config, node.head_dim, self.batch.names[node.name]
        index = channels.start // d  # of the state's scales
        head = index % (self.shapes[source_name].channels // (3 * d))
        input_zero = node.input_zero[node.inputs.index(source_name)]
        source, target = self.buffers[source_name], self.buffers[node.name]
        q, k, v = (self._blocks(range((3 * head + i) * d, (3 * head + i + 1) * d)) for i in range(3))
        rows = range(self.shapes[node.name].height)
        tiles = head_tiles(d, config)
        slot = index % (config.state_tiles // tiles) * tiles
        state = (STATE_BUFFER, slot + np.arange(tiles))
        shape = self.shapes[node.name]
        pixels = shape.height * shape.width
        self.instructions.append(
            Instruction(
                Engine.ATTENTION, original,
                {
                    "source": source.view(0),
                    "rows": len(rows),
                    "groups_per_row": source.groups,
                    "last_pixels": self._last_pixels(source_name),
                    "blocks": d // config.in_lanes,
                    "key_block": k.start,
                    "value_block": v.start,
                    "input_zero": input_zero,
                    "state_tile": slot,
                    "state_multiplier": int(node.state_multiplier[index]),
                    "state_shift": int(node.state_shift[index]),
                    "sum_multiplier": int(node.sum_multiplier[index]),
                    "sum_shift": int(node.sum_shift[index]),
                },
                [(source.pad, source.addresses(rows, range(k.start, v.stop)))],
                [state],
                macs=pixels * d * d,
            )
        )  # fmt: skip
        blocks = self._blocks(channels)
        step = max(1, config.acc_depth // source.groups)
        for start in range(0, len(rows), step):
            band = range(start, min(start + step, len(rows)))
            self.instructions.append(
                Instruction(
                    Engine.MATMUL, original,
                    {
                        "source": source.view(band.start, q.start),
                        "destination": target.view(band.start, blocks.start),
                        "rows": len(band),
                        "groups_per_row": source.groups,
                        "in_blocks": d // config.in_lanes,
                        "out_tiles": 1 + ceil(d / config.out_lanes),
                        "out_subblocks": d // config.requant_channels,
                        "relu": 1,
                        "input_zero": input_zero,
                        "from_state": 1,
                        "state_tile": slot,
                        "requant": self._requant_fields(node.requant) | {"divide": 1},
                    },
                    [(source.pad, source.addresses(band, q)), state],
                    [(target.pad, target.addresses(band, blocks))],
                    Parameters(
                        self._parameter_key(node, channels),
                        lambda: requant_parameters(node.requant, channels, config.out_lanes, config.stream_bits),
                        node.requant,
                    ),
                    macs=len(band) * shape.width * d * (d + 1),
                )
            )  # fmt: skip

    def _emit_pool(self, node: AveragePool, channels: range, source_name: str) -> None:
        source, target = self.buffers[source_name], self.buffers[node.name]
        shape, offset = self.shapes[source_name], self.batch.first_channel[source_name]
        blocks = self._blocks(channels)
        source_blocks = self._blocks(range(channels.start - offset, channels.stop - offset))
        group, pixel = divmod(self.batch.frame_of[source_name], self.config.pixels)
        self.instructions.append(
            Instruction(
                Engine.ATTENTION, self.batch.names[node.name],
                {
                    "source": source.view(0, source_blocks.start),
                    "destination": target.column(group, blocks.start),
                    "rows": shape.height,
                    "groups_per_row": source.groups,
                    "last_pixels": self._last_pixels(source_name),
                    "pool": 1,
                    "pixel": pixel,
                    "blocks": len(blocks),
                    "sum_multiplier": node.multiplier,
                    "sum_shift": node.shift,
                    "sum_bias": node.bias,
                    "out_zero": node.zero_point,
                    "out_limit": code_range(node.out_bits)[1],
                },
                [(source.pad, source.addresses(range(shape.height), source_blocks))],
                [(target.pad, target.column_addresses(group, blocks))],
            )
        )  # fmt: skip

    def _emit_norm(self, node: LayerNorm) -> None:
        """One instruction for each frame."""
        source, target = self.buffers[node.inputs[0]], self.buffers[node.name]
        channels = range(self.shapes[node.name].channels)
        for frame in range(self.batch.frames):
            group, pixel = divmod(frame, self.config.pixels)
            self.instructions.append(
                Instruction(
                    Engine.NORM, self.batch.names[node.name],
                    {
                        "source": source.column(group),
                        "destination": target.column(group),
                        "pixel": pixel,
                        "channels": len(channels),
                        "epsilon": node.epsilon,
                        "requant": self._requant_fields(node.requant),
                    },
                    [(source.pad, source.column_addresses(group, self._blocks(channels)))],
                    [(target.pad, target.column_addresses(group, self._blocks(channels)))],
                    Parameters(
                        (node.name, 0),
                        lambda: requant_parameters(
                            node.requant, channels, self.config.norm_group, self.config.bus_bits
                        ),
                        node.requant,
                    ),
                )
            )  # fmt: skip

    def _emit_store(self, name: str, rows: range) -> None:
        buffer = self.buffers[name]
        self.stores.append(StoreRequest(len(self.instructions), name, rows.start, len(rows)))
        self.instructions.append(
            Instruction(
                Engine.STORE, self.batch.names[name],
                {"source": buffer.view(rows.start), "rows": len(rows), "words_per_row": buffer.row_stride},
                reads=[(buffer.pad, buffer.addresses(rows))],
            )
        )  # fmt: skip

    def _requant_fields(self, requant: Requant) -> dict[str, int]:
        return {
            "operand": int(requant.operand),
            "index_zero": requant.index_zero if requant.operand == Operand.TABLE else 0,
            "residual_zero": requant.residual_zero,
            "shift2": requant.shift2,
            "limit": 0 if requant.signed else code_range(requant.out_bits)[1],
        }
