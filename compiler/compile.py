"""IntegerNetwork + AcceleratorConfig -> Program."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from math import ceil

import numpy as np

from compiler.batch import Batch
from compiler.checks import check_network
from compiler.cycles import timing
from compiler.emission import Lowered
from compiler.instructions import Instruction
from compiler.lowering import lower
from compiler.parameters import table_bytes
from compiler.program import Program, StoredMap, assemble, stream_base
from compiler.rehearsal import MemoryTiming, Rehearsal, rehearse
from compiler.results import word_bytes
from compiler.schedule import PATIENCE, Scheduled, dependencies, schedule
from compiler.shapes import infer_shapes
from hw.config import KERNEL_ROWS, AcceleratorConfig
from hw.control.descriptors import BODIES, Engine, Opcode, Packet, pack
from quant.integer_network import IntegerNetwork

__all__ = ["compile_network"]

REHEARSED = 4  #: choices, those with the shortest schedules: rehearsals know memory and ports, but take longer
OTHER_PATIENCES = (20, 120, 400)  #: in place of `PATIENCE`, with the choice that is best so far
TABLE_BANKS = 2
PAGE = 4096


def compile_network(
    network: IntegerNetwork,
    config: AcceleratorConfig,
    *,
    trace: bool = False,
    batch: int = 1,
    memory: MemoryTiming | None = None,
) -> Program:
    """Compile a run of `batch` frames.

    Frames of a run overlap, and use what is loaded for the fully connected layers together: more frames per second, but
    scores come when the last frame is done. With `trace`, the program also stores every node's map, for comparison and
    debugging. It is the one of those tried that is predicted to be fastest with an external memory like `memory`, and
    runs with any.

    Raises `CompileError` with a table of everything that cannot be mapped.
    """
    shapes = infer_shapes(network)
    check_network(network, config, shapes, batch)
    frames = Batch.of(network, shapes, batch)
    scheduled = ((lowered, _schedule(lowered, config)) for lowered in lower(frames, config, trace=trace))
    likely = nsmallest(REHEARSED, scheduled, key=lambda choice: choice[1].cycles)
    choose = partial(_Choice.of, config, memory or MemoryTiming())
    choice = _fastest(choose(*each) for each in likely)
    lowered = choice.lowered
    choice = _fastest((choice, *(choose(lowered, _schedule(lowered, config, each)) for each in OTHER_PATIENCES)))
    ordered, streams, rehearsal = choice.ordered, choice.streams, choice.rehearsal
    packets = [_packet(instruction, counts) for instruction, counts in zip(ordered, choice.waits, strict=True)]
    packets.append(_end_packet(ordered))
    image_bytes = network.input.size**2 * network.input.channels
    image = assemble(
        packets,
        streams.content,
        config_hash=config.hash,
        input_bytes=batch * image_bytes,
        result_bytes=choice.result_bytes,
        port_stride=streams.port_stride,
    )
    return Program(
        image=image,
        config_hash=config.hash,
        batch=batch,
        input_bytes=batch * image_bytes,
        result_bytes=choice.result_bytes,
        stored=choice.stored,
        predicted_cycles=rehearsal.cycles,
        layers=_layers(network, ordered, rehearsal, config),
        timeline=tuple(
            (int(i.engine), i.node, i.macs, start, done)
            for i, start, done in zip(ordered, rehearsal.start, rehearsal.done, strict=True)
        ),
    )


def _schedule(lowered: Lowered, config: AcceleratorConfig, patience: int = PATIENCE) -> Scheduled:
    needs = dependencies(lowered.instructions, config)
    return schedule(lowered.instructions, needs, [timing(i, config) for i in lowered.instructions], patience)


@dataclass(frozen=True)
class _Choice:
    """One way to run the frames: instructions in the order of dispatch, and what they wait for."""

    lowered: Lowered
    stored: tuple[StoredMap, ...]
    result_bytes: int
    ordered: list[Instruction]
    waits: list[list[int]]
    streams: "_Streams"
    rehearsal: Rehearsal

    @classmethod
    def of(cls, config: AcceleratorConfig, memory: MemoryTiming, lowered: Lowered, scheduled: Scheduled) -> "_Choice":
        stored, result_bytes = _result_layout(lowered, config)
        ordered = [lowered.instructions[i].copy() for i in scheduled.order]
        waits = [scheduled.waits[i] for i in scheduled.order]
        _assign_tables(ordered)
        streams = _lay_out_streams(ordered, config, stream_base(len(ordered) + 1))
        rehearsal = rehearse(ordered, waits, config, memory)
        return cls(lowered, stored, result_bytes, ordered, waits, streams, rehearsal)


def _fastest(choices: Iterable[_Choice]) -> _Choice:
    return min(choices, key=lambda choice: choice.rehearsal.cycles)


def _result_layout(lowered: Lowered, config: AcceleratorConfig) -> tuple[tuple[StoredMap, ...], int]:
    """Give every store its place in the result area: class scores first, spilled maps last."""
    batch = lowered.batch
    last = batch.nodes[-1].name
    stored, offset = [], 0
    for request in sorted(lowered.stores, key=lambda s: s.node != last):
        instruction = lowered.instructions[request.instruction]
        shape, buffer = batch.shapes[request.node], lowered.buffers[request.node]
        scores, frame = request.node == last, batch.frame_of[request.node]
        instruction.fields["address"] = offset
        row_bytes = buffer.row_stride * word_bytes(config)
        # Behind the pooling, each pixel is a frame's map.
        parts = [(frame, 0, shape.width)] if frame is not None else [(f, f, 1) for f in range(batch.frames)]
        for index, pixel, width in parts:
            stored.append(
                StoredMap(
                    node=batch.names[request.node],
                    frame=index,
                    channel=batch.first_channel[request.node],
                    offset=offset,
                    row=request.row,
                    rows=request.rows,
                    pixel=pixel,
                    width=width,
                    channels=shape.channels,
                    blocks=buffer.blocks // config.slices if scores else buffer.blocks,
                    groups=buffer.groups,
                    scores=scores,
                    instruction=request.instruction,
                )
            )
        offset += request.rows * row_bytes
    for access in lowered.spills:
        lowered.instructions[access.instruction].fields["address"] = offset + access.offset
    return tuple(stored), offset + lowered.spilled_words * word_bytes(config)


def _assign_tables(instructions: list[Instruction]) -> None:
    """Keep the two most recently used activation tables of each engine loaded; load the others when they are needed.

    Layers whose tables have equal contents share them.
    """
    banks: dict[Engine, OrderedDict[bytes, int]] = {engine: OrderedDict() for engine in Engine}
    for instruction in instructions:
        parameters = instruction.parameters
        if parameters is None or parameters.requant.table is None:
            continue
        held = banks[instruction.engine]
        identity = parameters.requant.table.numpy().tobytes()
        load = identity not in held
        if load:
            bank = len(held) if len(held) < TABLE_BANKS else held.popitem(last=False)[1]
            held[identity] = bank
        held.move_to_end(identity)
        instruction.fields["requant"] |= {"table_load": int(load), "table_bank": held[identity]}


@dataclass(frozen=True)
class _Streams:
    content: bytes
    port_stride: int


def _lay_out_streams(instructions: list[Instruction], config: AcceleratorConfig, base: int) -> _Streams:
    """Concatenate the parameters of all instructions, matmul's striped over the ports, and set the stream fields.

    Instructions with equal parameters share one copy. A table stands right before them, and is skipped by instructions
    that find it loaded.
    """
    word_bits = {
        Engine.MATMUL: config.stream_bits,
        Engine.DEPTHWISE: config.bus_bits,
        Engine.NORM: config.bus_bits,
    }
    with_table = {
        i.parameters.key for i in instructions if i.parameters is not None and i.fields["requant"].get("table_load")
    }
    matmul, other = bytearray(), bytearray()
    places: dict[tuple[object, ...], tuple[int, int, int]] = {}  # offset, table words, parameter words
    for instruction in instructions:
        parameters = instruction.parameters
        if parameters is None:
            continue
        word = word_bits[instruction.engine] // 8
        target = matmul if instruction.engine == Engine.MATMUL else other
        if parameters.key not in places:
            content = parameters.content()
            table = b""
            if parameters.key in with_table:
                table = table_bytes(parameters.requant.table.numpy(), word * 8)
            places[parameters.key] = (len(target), len(table) // word, len(content) // word)
            target += table + content
        offset, table_words, words = places[parameters.key]
        load = instruction.fields["requant"].get("table_load", 0)
        instruction.fields["stream_words"] = words + (table_words if load else 0)
        instruction.fields["stream_address"] = offset + (0 if load else table_words * word)
    port_stride = ceil(len(matmul) // config.bus_ports / PAGE) * PAGE
    beats = np.frombuffer(bytes(matmul), np.uint8).reshape(-1, config.bus_ports, config.bus_bytes)
    regions = b"".join(
        (stripe := beats[:, port].tobytes()) + bytes(port_stride - len(stripe)) for port in range(config.bus_ports)
    )
    for instruction in instructions:
        if instruction.parameters is not None:
            address = instruction.fields["stream_address"]
            in_matmul = instruction.engine == Engine.MATMUL
            instruction.fields["stream_address"] = base + (
                address // config.bus_ports if in_matmul else len(regions) + address
            )
    return _Streams(regions + bytes(other), port_stride)


def _packet(instruction: Instruction, waits: list[int]) -> int:
    opcode = Opcode[instruction.engine.name]
    body = pack(BODIES[opcode], **instruction.fields)
    return pack(Packet, opcode=opcode, waits=[w & 0xFFFF for w in waits], body=body)


def _end_packet(instructions: list[Instruction]) -> int:
    counts = [sum(i.engine == engine for i in instructions) for engine in Engine]
    return pack(Packet, opcode=Opcode.END, waits=[c & 0xFFFF for c in counts])


def _layers(
    network: IntegerNetwork, instructions: list[Instruction], rehearsal: Rehearsal, config: AcceleratorConfig
) -> tuple[dict[str, object], ...]:
    """Per node: engines, instructions, useful multiply-accumulates, bytes from and to external memory, predicted first
    start and last end."""
    result = []
    for node in network.nodes:
        own = [i for i, instruction in enumerate(instructions) if instruction.node == node.name]
        if own:
            result.append(
                {
                    "node": node.name,
                    "engines": sorted({instructions[i].engine.name.lower() for i in own}),
                    "instructions": len(own),
                    "macs": sum(instructions[i].macs for i in own),
                    "bytes": sum(_external_bytes(instructions[i], config) for i in own),
                    "start": min(rehearsal.start[i] for i in own),
                    "end": max(rehearsal.done[i] for i in own),
                }
            )
    return tuple(result)


def _external_bytes(instruction: Instruction, config: AcceleratorConfig) -> int:
    """Bytes that an instruction moves from or to external memory: parameters, image rows, results, or spilled maps."""
    fields = instruction.fields
    if instruction.engine == Engine.LOAD:
        return (1 if fields.get("stored") else KERNEL_ROWS) * fields["rows"] * fields["row_bytes"]
    if instruction.engine == Engine.STORE:
        return fields["rows"] * fields["words_per_row"] * word_bytes(config)
    word_bits = config.stream_bits if instruction.engine == Engine.MATMUL else config.bus_bits
    return fields.get("stream_words", 0) * word_bits // 8
