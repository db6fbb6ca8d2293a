"""The life of a run: start, end, errors, halt, and soft reset."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.control.registers import ErrorCode

__all__ = ["FLUSH_CYCLES", "QUIET_CYCLES", "RunControl"]

QUIET_CYCLES = 16  #: without an outstanding transfer, before the core is cleared: more than any register on the way
FLUSH_CYCLES = 64  #: of `clear`; longer than any pipeline, so that stages without a reset are empty afterwards
ERROR_BITS = max(ErrorCode).bit_length()


class RunControl(wiring.Component):
    """State machine idle -> running -> idle, or -> error -> (soft reset) -> idle.

    The first error of a run wins, and among simultaneous ones the first in the list below. An error raises `halt`
    from the next cycle on: bus masters begin no more bursts, no instruction starts. A soft reset is possible in every
    state: it halts, waits until nothing has been outstanding for `QUIET_CYCLES`, and clears the core.

    Members
    -------
    start, soft_reset, acknowledge : commands of the host; `start` is ignored unless idle
    timeout : cycles without `progress` that make an error; 0: none
    fault : error code of the sequencer, or `ErrorCode.NONE`
    result_range, bus_read, bus_write : errors of bus masters
    packet : index of the packet being looked at
    ended : the program has ended
    outstanding : some bus transfer is not complete
    progress : an instruction has ended, or a bus beat has moved
    begin : one cycle, a run starts
    idle, busy, done, error, interrupt : as in the STATUS register
    running : a program runs
    halt : stop
    clear : reset of everything but the register bank and this
    error_code, error_info : as in the registers
    """

    start: In(1)
    soft_reset: In(1)
    acknowledge: In(1)
    timeout: In(32)
    fault: In(ERROR_BITS)
    result_range: In(1)
    bus_read: In(1)
    bus_write: In(1)
    packet: In(32)
    ended: In(1)
    outstanding: In(1)
    progress: In(1)
    begin: Out(1)
    idle: Out(1)
    busy: Out(1)
    running: Out(1)
    done: Out(1)
    error: Out(1)
    interrupt: Out(1)
    halt: Out(1)
    clear: Out(1)
    error_code: Out(ERROR_BITS)
    error_info: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        expired = self._watchdog(m)
        problem = Signal(ERROR_BITS)
        m.d.comb += problem.eq(self.fault)
        for signal, code in (
            (expired, ErrorCode.TIMEOUT),
            (self.bus_write, ErrorCode.BUS_WRITE),
            (self.bus_read, ErrorCode.BUS_READ),
            (self.result_range, ErrorCode.RESULT_RANGE),
        ):
            with m.If(signal):
                m.d.comb += problem.eq(code)

        resetting = Signal()
        count = Signal(range(max(QUIET_CYCLES, FLUSH_CYCLES)))
        with m.If(self.acknowledge):
            m.d.sync += self.interrupt.eq(0)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.begin.eq(self.start & ~self.soft_reset)
                with m.If(self.begin):
                    m.d.sync += self.done.eq(0)
                    m.next = "RUN"
                self._leave_on_soft_reset(m)
            with m.State("RUN"):
                with m.If(problem != ErrorCode.NONE):
                    m.d.sync += [self.error_code.eq(problem), self.error_info.eq(self.packet), self.interrupt.eq(1)]
                    m.d.sync += self.halt.eq(1)
                    m.next = "ERROR"
                with m.Elif(self.ended):
                    m.d.sync += [self.done.eq(1), self.interrupt.eq(1)]
                    m.next = "IDLE"
                self._leave_on_soft_reset(m)
            with m.State("ERROR"):
                m.d.comb += self.error.eq(1)
                self._leave_on_soft_reset(m)
            with m.State("DRAIN"):
                m.d.comb += resetting.eq(1)
                m.d.sync += count.eq(Mux(self.outstanding, 0, count + 1))
                with m.If(~self.outstanding & (count == QUIET_CYCLES - 1)):
                    m.d.sync += [count.eq(0), self.clear.eq(1)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += resetting.eq(1)
                m.d.sync += count.eq(count + 1)
                with m.If(count == FLUSH_CYCLES - 1):
                    m.d.sync += [self.halt.eq(0), self.clear.eq(0)]
                    m.d.sync += [count.eq(0), self.done.eq(0), self.interrupt.eq(0)]
                    m.d.sync += [self.error_code.eq(ErrorCode.NONE), self.error_info.eq(0)]
                    m.next = "IDLE"
        m.d.comb += [
            self.idle.eq(fsm.ongoing("IDLE")),
            self.running.eq(fsm.ongoing("RUN")),
            self.busy.eq(self.running | resetting),
        ]
        return m

    def _leave_on_soft_reset(self, m: Module) -> None:
        with m.If(self.soft_reset):
            m.d.sync += self.halt.eq(1)
            m.next = "DRAIN"

    def _watchdog(self, m: Module) -> Signal:
        """High when `timeout` cycles of a run have passed without progress."""
        quiet = Signal(32)
        expired = Signal()
        m.d.comb += expired.eq((quiet == self.timeout) & (self.timeout != 0))
        with m.If(~self.running | self.progress):
            m.d.sync += quiet.eq(0)
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)
        return expired
