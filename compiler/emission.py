"""Steps -> instructions, with the fields of their bodies, and the words that they read and write."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from compiler.batch import Batch
from compiler.buffers import Buffer
from compiler.instructions import MEMORY_BUFFER, STATE_BUFFER, Instruction, Parameters
from compiler.parameters import depthwise_parameters, matmul_parameters, matmul_weights, requant_parameters
from compiler.plan import Plan, Step
from compiler.results import word_bytes
from compiler.shapes import head_tiles
from compiler.spill import Reload, Spill
from hw.control.descriptors import Engine
from quant.integer_network import AveragePool, Conv, Input, LayerNorm, LinearAttention, Node, Requant
from quant.numerics import Operand, code_range

__all__ = ["Lowered", "MemoryAccess", "StoreRequest", "emit"]


@dataclass(frozen=True)
class StoreRequest:
    """Rows of a node's map that a STORE instruction (by index) writes to the result area."""

    instruction: int
    node: str
    row: int
    rows: int


@dataclass(frozen=True)
class MemoryAccess:
    """A STORE or LOAD instruction (by index) whose address is `offset` from where spilled maps lie."""

    instruction: int
    offset: int


@dataclass(frozen=True)
class Lowered:
    """Instructions of a batch in sequential order, the placed buffers, and what is written to external memory."""

    batch: Batch
    instructions: list[Instruction]
    buffers: dict[str, Buffer]
    stores: list[StoreRequest]
    spills: list[MemoryAccess]
    spilled_words: int


def emit(plan: Plan, buffers: dict[str, Buffer]) -> Lowered:
    """Instructions of all steps of a plan, with placed buffers."""
    emitter = _Emitter(plan, buffers)
    for step in plan.steps:
        emitter.emit(step)
    return Lowered(plan.batch, emitter.instructions, buffers, emitter.stores, emitter.spills, emitter.spilled_words)


class _Emitter:
    """Instructions so far."""

    def __init__(self, plan: Plan, buffers: dict[str, Buffer]) -> None:
        self.plan, self.buffers = plan, buffers
        self.batch, self.config, self.nodes = plan.batch, plan.config, plan.nodes
        self.instructions: list[Instruction] = []
        self.stores: list[StoreRequest] = []
        self.spills: list[MemoryAccess] = []
        self.spilled_words = 0
        self._spilled_at = self._lay_out_spills()

    def emit(self, step: Step) -> None:
        """Append the instructions of a step."""
        node, rows, channels = step.node, step.rows, step.channels
        if not channels:
            self._emit_store(node.name, rows)
        elif isinstance(node, Input):
            self._emit_load(node, rows)
        elif isinstance(node, Spill):
            self._emit_spill(node, rows, channels, step.sources[0])
        elif isinstance(node, Reload):
            self._emit_reload(node, rows)
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
        if node is self.plan.last and channels and channels.stop == self.plan.shapes[node.name].channels:
            self._emit_store(node.name, rows)

    def _parameter_key(self, node: Node, channels: range) -> tuple[str, int]:
        """Frames have their parameters in common."""
        name = node.name
        return self.batch.names[name], self.batch.first_channel[name] + channels.start

    def _emit_load(self, node: Input, rows: range) -> None:
        buffer = self.buffers[node.name]
        stem = self.plan.consumers[node.name][0]
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
        blocks = self.plan.blocks(channels)
        wide = node.requant.signed
        fields = {
            "source": source.view(rows.start, first_block),
            "destination": target.view(rows.start, blocks.start),
            "rows": len(rows),
            "groups_per_row": self.plan.groups(node.name),
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
                macs=len(rows) * self.plan.shapes[node.name].width * len(channels) * node.weight.shape[1:].numel(),
            )
        )  # fmt: skip

    def _emit_depthwise(self, node: Conv, rows: range, channels: range) -> None:
        source, target = self.buffers[node.inputs[0]], self.buffers[node.name]
        first = max(0, rows.start * node.stride - node.kernel // 2)
        last = self.plan.rows_needed(node, node.inputs[0], rows.stop)[1]
        blocks = self.plan.blocks(channels)
        original = self.batch.names[node.name]
        fields = {
            "source": source.view(first, blocks.start),
            "destination": target.view(rows.start, blocks.start),
            "rows": len(rows),
            "groups_per_row": target.groups,
            "source_groups": source.groups,
            "last_pixels": self.plan.last_pixels(node.inputs[0]),
            "blocks": len(blocks),
            "kernel5": int(node.kernel == 5),
            "stride2": int(node.stride == 2),
            "top": first - (rows.start * node.stride - node.kernel // 2),
            "source_rows": self.plan.shapes[node.inputs[0]].height - first,
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
                macs=len(rows) * self.plan.shapes[node.name].width * len(channels) * node.kernel**2,
            )
        )  # fmt: skip

    def _emit_attention(self, node: LinearAttention, channels: range, source_name: str) -> None:
        """State of one head, then its numerators and quotients; `channels` are the head's output channels."""
        config, d, original = self.config, node.head_dim, self.batch.names[node.name]
        index = channels.start // d  # of the state's scales
        head = index % (self.plan.shapes[source_name].channels // (3 * d))
        input_zero = node.input_zero[node.inputs.index(source_name)]
        source, target = self.buffers[source_name], self.buffers[node.name]
        q, k, v = (self.plan.blocks(range((3 * head + i) * d, (3 * head + i + 1) * d)) for i in range(3))
        rows = range(self.plan.shapes[node.name].height)
        tiles = head_tiles(d, config)
        slot = index % (config.state_tiles // tiles) * tiles
        state = (STATE_BUFFER, slot + np.arange(tiles))
        shape = self.plan.shapes[node.name]
        pixels = shape.height * shape.width
        self.instructions.append(
            Instruction(
                Engine.ATTENTION, original,
                {
                    "source": source.view(0),
                    "rows": len(rows),
                    "groups_per_row": source.groups,
                    "last_pixels": self.plan.last_pixels(source_name),
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
        blocks = self.plan.blocks(channels)
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
        shape, offset = self.plan.shapes[source_name], self.batch.first_channel[source_name]
        blocks = self.plan.blocks(channels)
        source_blocks = self.plan.blocks(range(channels.start - offset, channels.stop - offset))
        group, pixel = divmod(self.batch.frame_of[source_name], self.config.pixels)
        self.instructions.append(
            Instruction(
                Engine.ATTENTION, self.batch.names[node.name],
                {
                    "source": source.view(0, source_blocks.start),
                    "destination": target.column(group, blocks.start),
                    "rows": shape.height,
                    "groups_per_row": source.groups,
                    "last_pixels": self.plan.last_pixels(source_name),
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
        channels = range(self.plan.shapes[node.name].channels)
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
                    [(source.pad, source.column_addresses(group, self.plan.blocks(channels)))],
                    [(target.pad, target.column_addresses(group, self.plan.blocks(channels)))],
                    Parameters(
                        (node.name, 0),
                        lambda: requant_parameters(
                            node.requant, channels, self.config.norm_group, self.config.bus_bits
                        ),
                        node.requant,
                    ),
                )
            )  # fmt: skip

    def _lay_out_spills(self) -> dict[str, int]:
        """The first word of each spilled map, counted from that of the first map."""
        result = {}
        for name, node in self.nodes.items():
            if isinstance(node, Spill):
                result[name] = self.spilled_words
                self.spilled_words += self.plan.shapes[name].height * self._row_words(name)
        return result

    def _row_words(self, name: str) -> int:
        channels = range(self.plan.shapes[name].channels)
        return len(self.plan.blocks(channels)) * self.plan.groups(name)

    def _emit_spill(self, node: Spill, rows: range, channels: range, source_name: str) -> None:
        """One instruction for rows of all channels; for each row, if it is a part of them."""
        source, row_words = self.buffers[source_name], self._row_words(node.name)
        first = self._spilled_at[node.name] + self.plan.blocks(channels).start * source.groups
        bands = [rows] if source.row_stride == row_words else [range(row, row + 1) for row in rows]
        for band in bands:
            words = first + band.start * row_words + np.arange(len(band) * source.row_stride)
            self.spills.append(MemoryAccess(len(self.instructions), int(words[0]) * word_bytes(self.config)))
            self.instructions.append(
                Instruction(
                    Engine.STORE, self.batch.names[node.name],
                    {"source": source.view(band.start), "rows": len(band), "words_per_row": source.row_stride},
                    [(source.pad, source.addresses(band))],
                    [(MEMORY_BUFFER, words)],
                )
            )  # fmt: skip

    def _emit_reload(self, node: Reload, rows: range) -> None:
        target, size = self.buffers[node.name], word_bytes(self.config)
        row_words = target.row_stride
        words = self._spilled_at[node.inputs[0]] + rows.start * row_words + np.arange(len(rows) * row_words)
        self.spills.append(MemoryAccess(len(self.instructions), int(words[0]) * size))
        self.instructions.append(
            Instruction(
                Engine.LOAD, self.batch.names[node.name],
                {
                    "destination": target.view(rows.start),
                    "stored": 1,
                    "row_bytes": row_words * size,
                    "words_per_row": row_words,
                    "rows": len(rows),
                },
                [(MEMORY_BUFFER, words)],
                [(target.pad, target.addresses(rows))],
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
