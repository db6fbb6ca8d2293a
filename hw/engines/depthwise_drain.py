"""Drain of the depthwise engine: requantizes finished accumulators and writes them to the output map."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.arithmetic.requantizer import Requantizer, TableWrite
from hw.config import AcceleratorConfig
from hw.control.descriptors import DepthwiseBody, OperandMode, RequantMode, record_layout
from hw.engines.countdown import Countdown
from hw.engines.depthwise_parameters import RECORD_SLOTS
from hw.engines.depthwise_window import accumulator_depth, chunks
from hw.interfaces import PadWrite, pad_address_bits, write_mask
from hw.memory.map_rows import next_row
from hw.memory.register_fifo import RegisterFifo

__all__ = ["DepthwiseDrain", "drain_layout"]

BODY_QUEUE = 3  # instructions that the reader may be ahead of the drain
BEATS_IN_FLIGHT = 32  # more than the cycles from the accumulators to the write port


def drain_layout() -> data.StructLayout:
    """What the drain needs of an instruction."""
    body = data.Layout.cast(DepthwiseBody)
    names = ("destination", "rows", "groups_per_row", "blocks", "requant")
    return data.StructLayout({name: body[name].shape for name in names})


def beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Where a beat goes, and what ends with it."""
    return data.StructLayout(
        {
            "pad": 2,
            "address": pad_address_bits(config),
            "chunk": range(max(chunks(config), 2)),
            "subblock": range(max(config.dw_subblocks, 2)),
            "last": 1,  # of its instruction
            "table": 1,  # the instruction used the activation table `table_bank`
            "table_bank": 1,
        }
    )


class BeatWalk(wiring.Component):
    """Counters of the beats of an instruction: [block][subblock][row][group][chunk].

    Members
    -------
    body : instructions; one is taken in the second cycle after the last beat of the one before
    active : `beat` is valid; `step` goes on to the next one
    address : of the beat in the accumulators
    group_begin, block_begin : first beat of its subblock, of its block
    block_end : last beat of its block
    mode : requantization of the instruction
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "body": In(stream.Signature(drain_layout())),
                "active": Out(1),
                "step": In(1),
                "beat": Out(beat_layout(config)),
                "address": Out(range(accumulator_depth(config))),
                "group_begin": Out(1),
                "block_begin": Out(1),
                "block_end": Out(1),
                "mode": Out(RequantMode),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        body, new, take = Signal(drain_layout()), self.body.payload, Signal()
        chunk, subblock = self.beat.chunk, self.beat.subblock
        groups, rows, blocks = Countdown(8), Countdown(8), Countdown(12)
        row, column, block_column, next_block_column, last_row = (
            Signal.like(self.beat.address, name=name)
            for name in ("row", "column", "block_column", "next_block_column", "last_row")
        )
        word_end, row_end, group_end = Signal(), Signal(), Signal()
        view = body.destination
        m.d.comb += [
            word_end.eq(chunk == chunks(config) - 1),
            row_end.eq(word_end & groups.last),
            group_end.eq(row_end & rows.last),
            self.block_end.eq(group_end & (subblock == config.dw_subblocks - 1)),
            self.group_begin.eq(self.address == 0),
            self.block_begin.eq(self.group_begin & (subblock == 0)),
            self.mode.eq(body.requant),
            self.beat.pad.eq(view.pad),
            self.beat.address.eq(row + column),
            self.beat.last.eq(self.block_end & blocks.last),
            self.beat.table.eq(body.requant.operand == OperandMode.TABLE),
            self.beat.table_bank.eq(body.requant.table_bank),
            next_block_column.eq(block_column + body.groups_per_row),
            self.body.ready.eq(~self.active),
            take.eq(self.body.valid & self.body.ready),
        ]
        with m.If(self.step):
            m.d.sync += [chunk.eq(chunk + 1), self.address.eq(self.address + 1)]
            with m.If(word_end):
                m.d.sync += [chunk.eq(0), column.eq(column + 1), *groups.step()]
            with m.If(row_end):
                m.d.sync += [column.eq(block_column), row.eq(next_row(view, row, last_row)), *rows.step()]
            with m.If(group_end):
                m.d.sync += [row.eq(view.start), self.address.eq(0), subblock.eq(subblock + 1)]
            with m.If(self.block_end):
                m.d.sync += [subblock.eq(0), *blocks.step()]
                m.d.sync += [block_column.eq(next_block_column), column.eq(next_block_column)]
            with m.If(self.beat.last):
                m.d.sync += self.active.eq(0)
        with m.If(take):
            m.d.sync += [
                body.eq(new),
                self.active.eq(1),
                *groups.load(new.groups_per_row - 1, new.groups_per_row == 1),
                *rows.load(new.rows - 1, new.rows == 1),
                *blocks.load(new.blocks - 1, new.blocks == 1),
                row.eq(new.destination.start),
                last_row.eq(new.destination.limit - new.destination.row_stride),
                column.eq(0),
                block_column.eq(0),
            ]
        return m


class DepthwiseDrain(wiring.Component):
    """Writes the results of an instruction, one beat per cycle: `dw_pixels` pixels of `dw_group` channels.

    The first subblock of a block follows the accumulators as they finish; the others come after it. Beats wait in a
    FIFO for the write port.

    Members
    -------
    body : instructions
    finished : one more address of the accumulators can be drained
    read, read_bank, read_address, read_group, read_data : drain port of the accumulators
    records_read, records_slot, records : records of a block, one cycle after `records_read`
    block_drained : pulse; the accumulators' bank is free
    table_write : to the requantizer
    destination : scratchpad port
    completed : pulse; all writes of an instruction can be read; with it, `completed_table`, `completed_bank`: its use
        of the activation tables
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "body": In(stream.Signature(drain_layout())),
                "finished": In(1),
                "read": Out(1),
                "read_bank": Out(1),
                "read_address": Out(range(accumulator_depth(config))),
                "read_group": Out(range(max(config.dw_subblocks, 2))),
                "read_data": In(data.ArrayLayout(signed(config.acc_bits), config.dw_pixels * config.dw_group)),
                "records_read": Out(1),
                "records_slot": Out(range(RECORD_SLOTS)),
                "records": In(data.ArrayLayout(record_layout(), config.in_lanes)),
                "block_drained": Out(1),
                "table_write": In(TableWrite(config, config.bus_bits)),
                "destination": Out(PadWrite(config)),
                "completed": Out(1),
                "completed_table": Out(1),
                "completed_bank": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.bodies = bodies = RegisterFifo(width=drain_layout().size, depth=BODY_QUEUE)
        m.submodules.walk = walk = BeatWalk(config)
        # Beats that were read, in order; there is room for the codes of all of them.
        m.submodules.beats = beats = SyncFIFO(width=beat_layout(config).size, depth=BEATS_IN_FLIGHT)
        m.d.comb += [
            bodies.i.payload.eq(self.body.payload),
            bodies.i.valid.eq(self.body.valid),
            self.body.ready.eq(bodies.i.ready),
            walk.body.payload.eq(bodies.o.payload),
            walk.body.valid.eq(bodies.o.valid),
            bodies.o.ready.eq(walk.body.ready),
            walk.step.eq(self.read),
            beats.w_data.eq(walk.beat),
            beats.w_en.eq(self.read),
        ]
        available = Signal(range(2 * accumulator_depth(config) + 1))
        first_subblock = walk.beat.subblock == 0
        some_available = Signal()
        taken = self.read & first_subblock
        m.d.sync += [
            available.eq(available + self.finished - taken),
            some_available.eq((available > 1) | self.finished | (available[0] & ~taken)),
        ]
        m.d.comb += [
            self.read.eq(walk.active & beats.w_rdy & (~first_subblock | some_available)),
            self.read_address.eq(walk.address),
            self.read_group.eq(walk.beat.subblock),
            self.block_drained.eq(self.read & walk.block_end),
        ]
        with m.If(self.block_drained):
            m.d.sync += [self.read_bank.eq(~self.read_bank), self.records_slot.eq(self.records_slot + 1)]
        self._write(m, beats, self._requantize(m, walk))
        return m

    def _requantize(self, m: Module, walk: BeatWalk) -> Requantizer:
        """Send beats through the requantizer; records and mode arrive there with the accumulators."""
        config = self._config
        m.submodules.requantizer = requantizer = Requantizer(
            config, pixels=config.dw_pixels, channels=config.dw_group, word_bits=config.bus_bits
        )
        wiring.connect(m, wiring.flipped(self.table_write), requantizer.table_write)
        read_1, group_begin, subblock, mode_1 = Signal(), Signal(), Signal.like(walk.beat.subblock), Signal(RequantMode)
        read_2, mode_2 = Signal(), Signal(RequantMode)
        records = Signal(requantizer.records.shape())
        m.d.comb += self.records_read.eq(self.read & walk.block_begin)
        m.d.sync += [read_1.eq(self.read), read_2.eq(read_1)]
        with m.If(self.read):
            m.d.sync += [group_begin.eq(walk.group_begin), subblock.eq(walk.beat.subblock), mode_1.eq(walk.mode)]
        with m.If(read_1):
            m.d.sync += mode_2.eq(mode_1)
            with m.If(group_begin):
                m.d.sync += records.eq(self.records.as_value().word_select(subblock, records.as_value().shape().width))
        m.d.comb += [
            requantizer.valid.eq(read_2),
            requantizer.acc.eq(self.read_data),
            requantizer.records.eq(records),
            requantizer.mode.eq(mode_2),
        ]
        return requantizer

    def _write(self, m: Module, beats: SyncFIFO, requantizer: Requantizer) -> None:
        """Queue the codes, and write each beat to its lanes of its word, through a register."""
        config = self._config
        layout = data.ArrayLayout(data.ArrayLayout(config.act_bits, config.dw_group), config.dw_pixels)
        m.submodules.codes = fifo = SyncFIFO(width=layout.size, depth=BEATS_IN_FLIGHT)
        made, codes, beat = Signal(layout), Signal(layout), Signal(beat_layout(config))
        for p in range(config.dw_pixels):
            m.d.comb += [made[p][c].eq(requantizer.y[p][c]) for c in range(config.dw_group)]
        port = self.destination
        free = ~port.valid | port.ready
        accepted = port.valid & port.ready
        m.d.comb += [
            fifo.w_data.eq(made),
            fifo.w_en.eq(requantizer.out_valid),
            fifo.r_en.eq(free),
            beats.r_en.eq(free & fifo.r_rdy),
            port.pad.eq(beat.pad),
            port.address.eq(beat.address),
        ]
        with m.If(free):
            m.d.sync += [port.valid.eq(fifo.r_rdy), codes.eq(fifo.r_data), beat.eq(beats.r_data)]
        mask = write_mask(config, beat.subblock, config.dw_group)
        for p in range(config.pixels):
            chunk, lane = divmod(p, config.dw_pixels)
            m.d.comb += port.mask[p].eq(Mux(beat.chunk == chunk, mask, 0))
            for subblock in range(config.dw_subblocks):
                first = subblock * config.dw_group
                m.d.comb += [port.data[p][first + c].eq(codes[lane][c]) for c in range(config.dw_group)]
        m.d.sync += [
            self.completed.eq(accepted & beat.last),
            self.completed_table.eq(beat.table),
            self.completed_bank.eq(beat.table_bank),
        ]
