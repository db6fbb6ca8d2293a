"""The steps of a run: which rows and channels are made when, and how many rows of each map live at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, lcm

from compiler.batch import Batch
from compiler.buffers import Lifetime, Reads, buffer_for
from compiler.parameters import groups_per_matmul_group
from compiler.parts import chunk_channels
from compiler.shapes import Shape
from compiler.spill import Reload, Spill
from hw.config import KERNEL_ROWS, AcceleratorConfig
from quant.integer_network import AveragePool, Conv, Input, LayerNorm, LinearAttention, Node

__all__ = ["Plan", "Step"]


@dataclass(frozen=True)
class Step:
    """Rows and channels of a node that are made at once, and the maps that are read; without channels, rows that are
    stored."""

    node: Node
    rows: range
    channels: range
    sources: tuple[str, ...] = ()


class Plan:
    """The steps of one run for one choice of bands, of `band_words` words at most.

    Everything is made on demand, from the last node on. With `trace`, steps that store every node's map follow those
    that make it.
    """

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
        self._walk()

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

    def groups(self, name: str) -> int:
        """Pixel groups of a row."""
        return ceil(self.shapes[name].width / self.config.pixels)

    def last_pixels(self, name: str) -> int:
        """Pixels of the last group of a row."""
        return self.shapes[name].width - (self.groups(name) - 1) * self.config.pixels

    def blocks(self, channels: range) -> range:
        """Channel blocks of some channels."""
        ti = self.config.in_lanes
        return range(channels.start // ti, ceil(channels.stop / ti))

    def rows_needed(self, node: Node, source: str, row: int) -> tuple[int, int]:
        """First and last+1 input rows that a node's rows from `row` on, and up to `row`, need."""
        height = self.shapes[source].height
        if isinstance(node, Conv) and node.is_depthwise:
            reach = node.kernel // 2
            return max(0, row * node.stride - reach), min(height, (row - 1) * node.stride + reach + 1)
        if isinstance(node, (LinearAttention, AveragePool, Reload)):
            return 0, height
        return row, row

    # -- the walk --

    def _walk(self) -> None:
        self.steps: list[Step] = []
        self.rows_made = dict.fromkeys(self.nodes, 0)
        self.rows_spilled = dict.fromkeys(self.nodes, 0)
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
            frame = self.frame(step)
            times.append((frame, work[frame]))
            work[frame] += self._work(step)
        period = (1.0 - overlap) * work[0]

        def key(index: int) -> tuple[float, int]:
            frame, time = times[index]
            # What follows the pooling of all frames comes last.
            return (float("inf") if frame is None else frame * period + time, index)

        self.steps = [self.steps[index] for index in sorted(range(len(self.steps)), key=key)]

    def frame(self, step: Step) -> int | None:
        """The frame that a step is for; None: all."""
        pooled = isinstance(step.node, AveragePool) and step.sources
        return self.batch.frame_of[step.sources[0] if pooled else step.node.name]

    def _work(self, step: Step) -> int:
        """Multiply-accumulates of the MAC array, about."""
        if not isinstance(step.node, Conv) or step.node.is_depthwise:
            return 0
        return (
            len(step.rows) * self.shapes[step.node.name].width * len(step.channels) * step.node.weight.shape[1:].numel()
        )

    def _ensure(self, name: str, row_end: int, channel_end: int) -> None:
        """Make rows of a node up to `row_end`; of a whole map, channels up to `channel_end`."""
        node, shape = self.nodes[name], self.shapes[name]
        if isinstance(node, LinearAttention):
            return self._ensure_attention(node)
        if isinstance(node, AveragePool):
            return self._ensure_pool(node)
        if isinstance(node, Spill):
            return self._ensure_spill(node)
        if self.is_whole(name) and not isinstance(node, (Input, LayerNorm, Reload)):
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
            self._made(node, rows, range(shape.channels), () if isinstance(node, Reload) else node.inputs)
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
        for head in range(heads):
            for source in self._parts(node):
                self._ensure(source, self.shapes[source].height, 3 * d * (head + 1))
                first = (node.inputs.index(source) * heads + head) * d
                self._made(node, range(shape.height), range(first, first + d), (source,))

    def _parts(self, node: Node) -> list[str]:
        """Inputs in the order in which they are made."""
        return [name for name in self.nodes if name in node.inputs]

    def _ensure_spill(self, node: Spill) -> None:
        """The whole map: each part as its rows are made."""
        if self.rows_made[node.name]:
            return
        for source in self._parts(node):
            shape, offset = self.shapes[source], self.batch.first_channel[source]
            channels = range(offset, offset + shape.channels)
            while (first := self.rows_spilled[source]) < shape.height:
                rows = range(first, min(first + self.band_rows(source), shape.height))
                self._ensure(source, rows.stop, shape.channels)
                self._made(node, rows, channels, (source,))
                self.rows_spilled[source] = rows.stop

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
            last_channels &= self.frame(step) == self.batch.frames - 1
        # Inputs of an attention or a pooling are read until the last head or frame is made.
        if last_channels or not isinstance(node, (LinearAttention, AveragePool, Spill)):
            self.rows_made[node.name] = rows.stop
        if self.trace and last_channels and not isinstance(node, (Input, Spill, Reload)) and node is not self.last:
            self.steps.append(Step(node, rows, range(0)))
        oldest = min(
            (self._oldest_needed(reader, node.name) for reader in self.consumers[node.name]), default=rows.start
        )
        self.live_rows[node.name] = max(self.live_rows[node.name], rows.stop - min(oldest, rows.start))

    def _oldest_needed(self, reader: Node, source: str) -> int:
        if isinstance(reader, Spill):
            return self.rows_spilled[source]
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
            names = step.sources if isinstance(step.node, Spill) else (step.node.name, *step.sources)
            for name in names:
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
        words = len(step.rows) * self.groups(node.name) * ceil(len(step.channels) / config.out_lanes)
        return words * max(ceil(node.weight.shape[1] / config.in_lanes), config.out_lanes // config.requant_channels)

    def _reads(self, step: Step) -> Iterator[tuple[str, str, int]]:
        """Map, reading port, and words of everything that a step reads, about."""
        node, config = step.node, self.config
        if not step.channels:
            yield node.name, "store", len(step.rows) * self.groups(node.name)
            return
        words = len(step.rows) * self.groups(node.name) * len(self.blocks(step.channels))
        if isinstance(node, (Input, Reload)):
            return
        if isinstance(node, Spill):
            yield step.sources[0], "store", words
        elif isinstance(node, LayerNorm):
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
