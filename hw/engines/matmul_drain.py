"""The drain of the matmul engine: from the output memory of the accumulators into the requantizer."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.config import AcceleratorConfig
from hw.control.descriptors import OperandMode, RequantMode, record_layout
from hw.engines.countdown import Countdown
from hw.engines.matmul_tasks import drain_task
from hw.engines.matmul_walk import PassCounter, RowRing
from hw.interfaces import PAD_BITS, PAD_READ_LATENCY, PadRead, pad_address_bits

__all__ = ["Drain", "ticket_layout"]


def ticket_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Where a beat of results goes."""
    return data.StructLayout(
        {
            "pad": PAD_BITS,
            "address": pad_address_bits(config),
            "subblock": range(max(2, config.subblocks)),
            "wide": 1,
            "slice_stride": pad_address_bits(config),
            "look_up": 2,  # bit b: its instruction looks up in table bank b
            "last": 1,  # of its instruction
        }
    )


class Drain(wiring.Component):
    """For each output tile, for each of its channel groups, for each pixel group: P x requant_channels accumulators.

    A beat reads the accumulators (and reciprocals) of its pixel group, and is taken in the cycle where its residual
    word is granted, if it needs one: all have a latency of `LATENCY` cycles. Then the requantizer takes it. With
    divisors, the first output tile is one channel group of beats for the reciprocals, and the numerators wait for the
    last of them. One beat per cycle; one per `slices` cycles if `wide`; the first beats of two channel groups are at
    least 2 cycles apart.

    Members
    -------
    fill, release : In(2), Out(2)
        Bit b: bank b of the output memory has become complete; is drained.
    groups, drop : records of the next channel group, as at `RecordQueue`
    loaded, use_loaded : as at `TableLoader`
    read.. : to the accumulators
    offered : Out(1)
        There is a beat, if its residual word is granted.
    divisor, divide : Out(1)
        There is a beat, and it is for the reciprocals; it needs its reciprocals. `divisors_ready`: all reciprocals
        are in their memory.
    ticket : Out
        With `ticket_valid`, for each beat that will be written.
    valid, records, mode, residual_word.. : the beat after `LATENCY` cycles
    """

    LATENCY = PAD_READ_LATENCY

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        group = data.ArrayLayout(record_layout(), config.requant_channels)
        codes = data.ArrayLayout(data.ArrayLayout(unsigned(config.act_bits), config.requant_channels), config.pixels)
        super().__init__(
            {
                "task": In(stream.Signature(drain_task(config))),
                "fill": In(2),
                "release": Out(2),
                "groups": In(stream.Signature(group)),
                "drop": Out(1),
                "loaded": In(1),
                "use_loaded": Out(1),
                "residual": Out(PadRead(config)),
                "offered": Out(1),
                "read": Out(1),
                "read_bank": Out(1),
                "read_address": Out(range(config.acc_depth)),
                "read_group": Out(range(max(2, config.out_lanes // config.requant_channels))),
                "divisor": Out(1),
                "divide": Out(1),
                "divisors_ready": In(1),
                "ticket": Out(ticket_layout(config)),
                "ticket_valid": Out(1),
                "valid": Out(1),
                "records": Out(group),
                "mode": Out(RequantMode),
                "residual_codes": Out(codes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        assert Accumulators.READ_LATENCY == self.LATENCY - 1  # they are read a cycle after the beat
        m.submodules.counter = counter = PassCounter(config.acc_depth)
        task = Signal.like(self.task.payload)
        active = Signal()
        middle = Signal()
        divisors = Signal()
        bank = Signal()
        full = Signal(2)
        beat = Signal()
        group_end = Signal()
        tile_end = Signal()
        finish = Signal()
        group = Signal(range(max(2, config.out_lanes // config.requant_channels)))
        last_group = Signal()
        subblocks = Countdown(14)
        last_subblock = Signal()
        load = Signal()

        residual = Signal()
        leaving = Signal()  # the records of the group
        ready = self._may_start(m, task, divisors, leaving, load) & full.bit_select(bank, 1)
        spaced = self._spaced(m, beat & task.requant.wide & ~divisors)
        m.d.comb += [
            self.offered.eq(active & (middle | ready) & spaced),
            self.residual.valid.eq(self.offered & residual),
            beat.eq(self.offered & (~residual | self.residual.ready)),
            group_end.eq(beat & counter.pass_end),
            last_group.eq(group == config.out_lanes // config.requant_channels - 1),
            last_subblock.eq(~divisors & subblocks.last),
            tile_end.eq(group_end & (divisors | last_group | last_subblock)),
            finish.eq(group_end & last_subblock),
            self.release.eq(tile_end << bank),
            self.task.ready.eq(~active),
            load.eq(self.task.valid & self.task.ready),
            counter.load.eq(load),
            counter.rows.eq(self.task.payload.rows),
            counter.groups.eq(self.task.payload.groups_per_row),
            counter.step.eq(beat),
            self.read.eq(beat),
            self.read_bank.eq(bank),
            self.read_address.eq(counter.index),
            self.read_group.eq(group),
            self.divisor.eq(beat & divisors),
            self.divide.eq(beat & ~divisors & task.requant.divide),
        ]
        m.d.sync += full.eq((full | self.fill) & ~self.release)
        with m.If(beat):
            m.d.sync += middle.eq(~counter.pass_end)
        with m.If(group_end):
            m.d.sync += [divisors.eq(0), residual.eq(task.requant.operand == OperandMode.RESIDUAL)]
            with m.If(~divisors):
                m.d.sync += [group.eq(Mux(tile_end, 0, group + 1)), *subblocks.step()]
        with m.If(tile_end):
            m.d.sync += bank.eq(~bank)
        with m.If(finish):
            m.d.sync += active.eq(0)
        with m.If(load):
            m.d.sync += active.eq(1)
            new = self.task.payload
            m.d.sync += [task.eq(new), divisors.eq(new.has_divisors)]
            m.d.sync += residual.eq(~new.has_divisors & (new.requant.operand == OperandMode.RESIDUAL))
            m.d.sync += subblocks.load(new.last_subblock, new.last_subblock == 0)

        self._fetch_records(m, beat & ~middle & ~divisors, finish & ~last_group, leaving)
        lane = self._walk(m, task, counter, load, beat & ~divisors, group_end & ~divisors, finish)
        self._accompany(m, beat & ~divisors, task.requant, lane)
        return m

    def _may_start(self, m: Module, task: data.View, divisors: Signal, leaving: Signal, load: Signal) -> Signal:
        """Everything but accumulators is there for the first beat of a channel group. Tables and divisors are seen one
        cycle late."""
        ready = Signal()
        table_missing = Signal()
        divisors_missing = Signal()
        held_back = Signal()
        m.d.comb += [
            ready.eq((divisors | (self.groups.valid & ~leaving)) & ~held_back),
            self.use_loaded.eq(table_missing & self.loaded),
            divisors_missing.eq(task.has_divisors & (self.divisor | ~self.divisors_ready)),
        ]
        m.d.sync += held_back.eq(table_missing | divisors_missing)
        with m.If(self.use_loaded):
            m.d.sync += table_missing.eq(0)
        with m.If(load):
            table_load = self.task.payload.requant.table_load
            m.d.sync += [table_missing.eq(table_load), held_back.eq(table_load)]
        return ready

    def _spaced(self, m: Module, wide_beat: Signal) -> Signal:
        """The slices of the wide beat before are written."""
        slices = self._config.slices
        gap = Signal(range(slices))
        with m.If(wide_beat):
            m.d.sync += gap.eq(slices - 1)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        return gap == 0

    def _fetch_records(self, m: Module, first_beat: Signal, rest_dropped: Signal, leaving: Signal) -> None:
        """The records of a group arrive at the requantizer with its first beat, when the group before is through."""
        taken = Signal()
        m.d.sync += [
            self.groups.ready.eq(first_beat),
            self.drop.eq(rest_dropped),
            leaving.eq(first_beat | rest_dropped),
            taken.eq(self.groups.ready),
        ]
        with m.If(taken):
            m.d.sync += self.records.eq(self.groups.payload)

    def _walk(
        self,
        m: Module,
        task: data.View,
        counter: PassCounter,
        load: Signal,
        beat: Signal,
        group_end: Signal,
        finish: Signal,
    ) -> Signal:
        """Addresses of the destination and the residual; returns the subblock of their words."""
        lane = Signal(range(max(2, self._config.subblocks)))
        address_bits = pad_address_bits(self._config)
        offset = Signal(address_bits)
        following = Signal(address_bits)
        next_offset = Signal(address_bits)
        last_lane = Signal()
        m.submodules.destination = destination = RowRing(address_bits)
        m.submodules.residual = residual = RowRing(address_bits)
        m.d.comb += [
            last_lane.eq(lane == self._config.subblocks - 1),
            next_offset.eq(Mux(last_lane, following, offset)),
            destination.ring.eq(self.task.payload.destination),
            residual.ring.eq(self.task.payload.residual),
            self.residual.pad.eq(residual.pad),
            self.residual.address.eq(residual.address),
            self.ticket_valid.eq(beat),
            self.ticket.pad.eq(destination.pad),
            self.ticket.address.eq(destination.address),
            self.ticket.subblock.eq(lane),
            self.ticket.wide.eq(task.requant.wide),
            self.ticket.slice_stride.eq(task.slice_stride),
            self.ticket.look_up.eq((task.requant.operand == OperandMode.TABLE) << task.requant.table_bank),
            self.ticket.last.eq(finish),
        ]
        for walk in (destination, residual):
            m.d.comb += [
                walk.load.eq(load),
                walk.step.eq(beat),
                walk.row_end.eq(counter.row_end),
                walk.pass_end.eq(counter.pass_end),
                walk.offset.eq(offset),
                walk.next_offset.eq(next_offset),
            ]
        m.d.sync += following.eq(offset + task.groups_per_row)
        with m.If(group_end):
            m.d.sync += [offset.eq(next_offset), lane.eq(Mux(last_lane, 0, lane + 1))]
        with m.If(load):
            m.d.sync += [lane.eq(0), offset.eq(0), following.eq(self.task.payload.groups_per_row)]
        return lane

    def _accompany(self, m: Module, beat: Signal, mode: data.View, lane: Signal) -> None:
        """What belongs to a beat, `LATENCY` cycles later."""
        for stage in range(self.LATENCY):
            stages = [
                Signal.like(s, name=f"{name}_{stage}") for name, s in zip(("beat", "mode", "lane"), (beat, mode, lane))
            ]
            m.d.sync += stages[0].eq(beat)
            with m.If(beat):
                m.d.sync += [stages[1].eq(mode), stages[2].eq(lane)]
            beat, mode, lane = stages
        m.d.comb += [self.valid.eq(beat), self.mode.eq(mode)]
        channels = self._config.requant_channels
        with m.Switch(lane):
            for s in range(self._config.subblocks):
                with m.Case(s):
                    for codes, word in zip(self.residual_codes, self.residual.data):
                        m.d.comb += [codes[c].eq(word[s * channels + c]) for c in range(channels)]
