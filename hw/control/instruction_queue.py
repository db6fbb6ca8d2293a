"""The queue of instructions before an engine: holds them until their waits are over, and sends for their parameters."""

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import WAIT_BITS, Engine
from hw.interfaces import InstructionPort
from hw.memory.parameter_stream import stream_fetch

__all__ = ["InstructionQueue", "event_counts", "reached"]

OUTSTANDING_BITS = 8  #: of counts of instructions that have not completed: more than a queue and its engine hold


def event_counts() -> data.ArrayLayout:
    """Event counters of all engines, or the counts that an instruction waits for."""
    return data.ArrayLayout(WAIT_BITS, len(Engine))


def reached(events: data.View, waits: data.View) -> Value:
    """Per engine, one bit: the event count is not behind the awaited one, modulo 2**16."""
    return Cat(~(events[engine] - waits[engine])[WAIT_BITS - 1] for engine in Engine)


class InstructionQueue(wiring.Component):
    """FIFO of `queue_depth` instructions, one more at its head, and the event counter of one engine.

    An instruction can start 3 cycles after it came, 2 without a FIFO, and 2 cycles after the `done` of the instruction
    that it awaits.
    With a `fetch` port, instructions are taken in every second cycle. Once an awaited count was reached, that is
    remembered, so that `instruction` is not withdrawn but by `halt`.

    Without a FIFO, a count is reached when its instruction comes, or becomes equal to the awaited one later. So there
    are no differences, and only low bits, because programs wait for instructions that came before.

    Parameters
    ----------
    body : layout of the engine's instructions; with `stream_address` and `stream_words`, there is a `fetch` port

    Members
    -------
    i : instructions in program order
    instruction : to the engine
    reached : engines whose counts, as the instruction on `i` awaits them, are reached in this cycle; without a FIFO
    events : event counts of all engines
    completed : event count of this engine
    program_base : added to stream addresses
    begin : a program starts: clear the event count; the queue must be idle
    halt : offer nothing
    idle : every instruction that came has completed
    held, over : there is an instruction at the head; the engines whose awaited counts were reached, remembered
    fetch : address and length of each parameter stream, from the second cycle after its instruction came
    """

    def __init__(self, config: AcceleratorConfig, body: type[data.Struct]) -> None:
        self._depth = config.queue_depth
        self._stream_fetch = stream_fetch(config)
        self._layout = data.StructLayout({"waits": event_counts(), "body": body})
        self._has_stream = "stream_words" in data.Layout.cast(body).members
        ports = {
            "i": In(stream.Signature(self._layout)),
            "instruction": Out(InstructionPort(body)),
            "reached": In(len(Engine)),
            "events": In(event_counts()),
            "completed": Out(WAIT_BITS),
            "begin": In(1),
            "halt": In(1),
            "idle": Out(1),
            "held": Out(1),
            "over": Out(len(Engine)),
        }
        if self._has_stream:
            ports["program_base"] = In(config.address_bits)
            ports["fetch"] = Out(stream.Signature(self._stream_fetch))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sent_for = self._fetch(m) if self._has_stream else Const(1)
        self._offer(m, self._wait(m, sent_for))

        came = Signal(OUTSTANDING_BITS)
        m.d.comb += self.idle.eq(came == self.completed[:OUTSTANDING_BITS])
        with m.If(self.begin):
            m.d.sync += [came.eq(0), self.completed.eq(0)]
        with m.Else():
            m.d.sync += [
                came.eq(came + (self.i.valid & self.i.ready)),
                self.completed.eq(self.completed + self.instruction.done),
            ]
        return m

    def _wait(self, m: Module, sent_for: Value) -> stream.Interface:
        """The oldest instruction that has come; none comes in unless the fetch of the one before is queued."""
        first = stream.Signature(self._layout).create()
        if self._depth:
            m.submodules.waiting = waiting = SyncFIFO(width=self._layout.size, depth=self._depth)
            m.d.comb += [
                waiting.w_data.eq(self.i.payload),
                waiting.w_en.eq(self.i.valid & sent_for),
                self.i.ready.eq(waiting.w_rdy & sent_for),
                first.payload.eq(waiting.r_data),
                first.valid.eq(waiting.r_rdy),
                waiting.r_en.eq(first.ready),
            ]
        else:
            # not as soon as the head is taken: the engines' `ready` would reach the sequencer in the same cycle
            m.d.comb += [
                first.payload.eq(self.i.payload),
                first.valid.eq(self.i.valid & self.i.ready),
                self.i.ready.eq(~self.held & sent_for),
            ]
        return first

    def _fetch(self, m: Module) -> Value:
        """Queue the fetch of an incoming instruction, if it has one; returns whether that of the last one is queued."""
        body = self.i.payload.body
        # Instructions in the queue, at its head, and in the engine: the fetches are never what holds the program up.
        m.submodules.fetches = fetches = SyncFIFO(width=self._stream_fetch.size, depth=self._depth + 2)
        entry = Signal(self._stream_fetch)
        entered = Signal(init=1)
        wiring.connect(m, wiring.flipped(self.fetch), fetches.r_stream)
        m.d.comb += [fetches.w_data.eq(entry), fetches.w_en.eq(~entered)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                entry.address.eq(self.program_base + body.stream_address),
                entry.words.eq(body.stream_words),
                entered.eq(body.stream_words == 0),
            ]
        with m.Elif(fetches.w_rdy):
            m.d.sync += entered.eq(1)
        return entered

    def _offer(self, m: Module, first: stream.Interface) -> None:
        """Hold the oldest instruction in a register, and offer it when all its counts were reached."""
        head = Signal(self._layout)
        held, over = self.held, self.over
        taken = Signal()
        port = self.instruction.body
        m.d.comb += [
            port.payload.eq(head.body),
            port.valid.eq(held & over.all() & ~self.halt),
            taken.eq(port.valid & port.ready),
            first.ready.eq(~held | taken),
        ]
        now_over = self._reached(m, first, head.waits)
        with m.If(first.ready):
            m.d.sync += [held.eq(first.valid), over.eq(0)]
            with m.If(first.valid):
                m.d.sync += head.eq(first.payload)
        with m.Else():
            m.d.sync += over.eq(over | now_over)

    def _reached(self, m: Module, first: stream.Interface, waits: data.View) -> Value:
        """Which counts of the instruction at the head are reached, if that was not remembered before."""
        if self._depth:
            return reached(self.events, waits)
        before = Signal(len(Engine))  # when it came
        with m.If(first.ready & first.valid):
            m.d.sync += before.eq(self.reached)
        low = slice(OUTSTANDING_BITS)
        return before | Cat(self.events[engine][low] == waits[engine][low] for engine in Engine)
