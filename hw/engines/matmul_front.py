"""The front end of the matmul engine: streams the words of a map past one weight tile after the other."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.config import AcceleratorConfig
from hw.engines.countdown import Countdown
from hw.engines.matmul_tasks import stream_task
from hw.engines.matmul_walk import PassCounter, RowRing
from hw.interfaces import PAD_BITS, pad_address_bits

__all__ = ["FrontEnd", "slot_layout"]


def slot_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Where the partial sums of a word go."""
    return data.StructLayout(
        {
            "address": range(config.acc_depth),
            "first": 1,  # of the input blocks
            "last": 1,
            "bank": 1,
            "tile_end": 1,  # the last word of an output tile
        }
    )


class FrontEnd(wiring.Component):
    """For each output tile, for each input block: a pass over the words of the block while one weight tile is held.

    A pass begins when its weight tile is ready, `MIN_REVISIT` cycles after the pass before at the earliest, and, if it
    is the last of its output tile, when that bank of the output memory is free. Then it takes a word in every cycle.
    Passes and output tiles follow each other without gaps, instructions with a cycle in between.

    Members
    -------
    issue : Out(1)
        A word is requested at `pad`, `address`; `slot`, `zero` belong to it. `take`: with a new weight tile.
    release : In(2)
        Bit b: bank b of the output memory is drained.
    active, stall : Out(1)
        There is an instruction; but no word in this cycle.
    bank_taken : Out(1)
        The next pass waits for its bank of the output memory.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "task": In(stream.Signature(stream_task(config))),
                "tile_ready": In(1),
                "take": Out(1),
                "release": In(2),
                "issue": Out(1),
                "active": Out(1),
                "stall": Out(1),
                "bank_taken": Out(1),
                "pad": Out(PAD_BITS),
                "address": Out(pad_address_bits(config)),
                "slot": Out(slot_layout(config)),
                "zero": Out(config.act_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.counter = counter = PassCounter(self._config.acc_depth)
        active = self.active
        middle = Signal()
        bank = Signal()
        owned = Signal(2)
        load = Signal()
        pass_end = Signal()
        tile_end = Signal()
        last_block = Signal()
        last_tile = Signal()
        start = self._may_start(m)
        m.d.comb += [
            self.bank_taken.eq(last_block & owned.bit_select(bank, 1)),
            self.issue.eq(active & (middle | start)),
            self.stall.eq(active & ~self.issue),
            self.take.eq(self.issue & ~middle),
            pass_end.eq(self.issue & counter.pass_end),
            tile_end.eq(pass_end & last_block),
            self.task.ready.eq(~active),
            load.eq(self.task.valid & self.task.ready),
            counter.load.eq(load),
            counter.rows.eq(self.task.payload.rows),
            counter.groups.eq(self.task.payload.groups_per_row),
            counter.step.eq(self.issue),
            self.slot.address.eq(counter.index),
            self.slot.last.eq(last_block),
            self.slot.bank.eq(bank),
            self.slot.tile_end.eq(tile_end),
        ]
        # A bank belongs to the array from the last pass of its tile on, until it is drained.
        claimed = (self.take & last_block) << bank
        m.d.sync += owned.eq((owned | claimed) & ~self.release)
        with m.If(self.issue):
            m.d.sync += middle.eq(~counter.pass_end)
        with m.If(tile_end):
            m.d.sync += bank.eq(~bank)
        with m.If(tile_end & last_tile):
            m.d.sync += active.eq(0)
        with m.If(load):
            m.d.sync += active.eq(1)
        self._sequence(m, counter, load, pass_end, last_block, last_tile)
        return m

    def _may_start(self, m: Module) -> Signal:
        """A pass may begin in this cycle."""
        gap = Signal(range(Accumulators.MIN_REVISIT))
        start = Signal()
        m.d.comb += start.eq(self.tile_ready & (gap == 0) & ~self.bank_taken)
        with m.If(self.take):
            m.d.sync += gap.eq(Accumulators.MIN_REVISIT - 1)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        return start

    def _sequence(
        self, m: Module, counter: PassCounter, load: Signal, pass_end: Signal, last_block: Signal, last_tile: Signal
    ) -> None:
        """Counts blocks and tiles, and finds the offset of the next block: its number times `groups_per_row`."""
        address_bits = len(self.address)
        m.submodules.walk = walk = RowRing(address_bits)
        task = Signal.like(self.task.payload)
        new = self.task.payload
        blocks, tiles, group_tiles = Countdown(12), Countdown(12), Countdown(12)
        first_block = Signal()
        offset = Signal(address_bits)
        group_offset = Signal(address_bits)
        following = Signal(address_bits)  # offset + groups_per_row
        m.d.comb += [
            last_block.eq(blocks.last),
            last_tile.eq(tiles.last),
            self.slot.first.eq(first_block),
            self.zero.eq(task.zero),
            walk.load.eq(load),
            walk.ring.eq(new.source),
            walk.step.eq(self.issue),
            walk.row_end.eq(counter.row_end),
            walk.pass_end.eq(counter.pass_end),
            walk.offset.eq(offset),
            walk.next_offset.eq(Mux(last_block & ~group_tiles.last, group_offset, following)),
            self.pad.eq(walk.pad),
            self.address.eq(walk.address),
        ]
        m.d.sync += following.eq(offset + task.groups_per_row)
        with m.If(pass_end):
            m.d.sync += [offset.eq(walk.next_offset), first_block.eq(last_block), *blocks.step()]
            with m.If(last_block):
                m.d.sync += [*tiles.step(), *group_tiles.step()]
                with m.If(group_tiles.last):
                    m.d.sync += group_offset.eq(following)
        with m.If(load):
            counters = ((blocks, new.last_block), (tiles, new.last_tile), (group_tiles, new.last_group_tile))
            m.d.sync += [counter.load(steps, steps == 0) for counter, steps in counters]
            m.d.sync += [task.eq(new), first_block.eq(1)]
            m.d.sync += [offset.eq(0), group_offset.eq(0), following.eq(new.groups_per_row)]
