"""Serial line: 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "line_divider"]

DATA_BITS = 8
FRAME_BITS = DATA_BITS + 2  #: with start and stop bit
MIN_DIVIDER = 4  #: cycles per bit; fewer leave no middle to sample
RATE_TOLERANCE = 0.01  #: of each side; together they may be off by half a bit in ten


def line_divider(frequency: float, baud: float) -> int:
    """Cycles per bit. Raises ValueError if no divider gives the rate within `RATE_TOLERANCE`."""
    divider = max(round(frequency / baud), 1)
    if divider < MIN_DIVIDER or abs(frequency / divider / baud - 1) > RATE_TOLERANCE:
        raise ValueError(
            f"{baud:.0f} baud cannot be made from {frequency / 1e6:g} MHz; the nearest rate is "
            f"{frequency / max(divider, MIN_DIVIDER):.0f}"
        )
    return divider


class UartReceiver(wiring.Component):
    """Bytes from a line. Bits are sampled in their middle; bytes without a stop bit are dropped.

    A byte comes half a bit after the beginning of its stop bit, so that the sender's clock may be a little faster.

    Members
    -------
    line : asynchronous, idles at 1
    data, strobe : a byte, valid for one cycle
    """

    line: In(1, init=1)
    data: Out(DATA_BITS)
    strobe: Out(1)

    def __init__(self, divider: int) -> None:
        if divider < MIN_DIVIDER:
            raise ValueError(f"divider = {divider} is too small; use at least {MIN_DIVIDER}")
        self._divider = divider
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules += FFSynchronizer(self.line, line, init=1)
        timer = Signal(range(self._divider))
        left = Signal(range(FRAME_BITS + 1))  # bits to sample
        m.d.sync += self.strobe.eq(0)
        with m.If(left == 0):
            with m.If(~line):
                m.d.sync += [left.eq(FRAME_BITS), timer.eq(self._divider // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divider - 1), left.eq(left - 1)]
            with m.If(left == 1):
                m.d.sync += self.strobe.eq(line)
            with m.Elif((left == FRAME_BITS) & line):  # no start bit, but a spike
                m.d.sync += left.eq(0)
            with m.Else():
                m.d.sync += self.data.eq(Cat(self.data[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line, `FRAME_BITS` bits each, without gaps while `i` is valid.

    Members
    -------
    i : In(stream of bytes)
    line : idles at 1
    """

    i: In(stream.Signature(DATA_BITS))
    line: Out(1, init=1)

    def __init__(self, divider: int) -> None:
        self._divider = divider
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self._divider))
        left = Signal(range(FRAME_BITS + 1))
        bits = Signal(FRAME_BITS, init=-1)
        m.d.comb += [self.line.eq(bits[0]), self.i.ready.eq(left == 0)]
        with m.If(self.i.ready):
            with m.If(self.i.valid):
                m.d.sync += [
                    bits.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))),
                    left.eq(FRAME_BITS),
                    timer.eq(self._divider - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [bits.eq(Cat(bits[1:], Const(1, 1))), left.eq(left - 1), timer.eq(self._divider - 1)]
        return m
