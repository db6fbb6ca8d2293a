"""The two read ports of the matmul engine, neither of which the scratchpads ever refuse."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.interfaces import PadRead

__all__ = ["ReadPair"]


class ReadPair(wiring.Component):
    """Lets the source of the matmul engine, and its residual where that is for another scratchpad, read in every cycle.

    Throughput: one request per cycle and port. Data comes exactly `MATMUL_READ_LATENCY` (first port) and
    `RESIDUAL_READ_LATENCY` (second port) cycles after its request was taken, if the scratchpads refuse neither port.
    The first port is never refused. Its requests pass a register, so that `ready` of the second port comes from
    registers: it is 0 when both would ask for the same pad. Its data pass another one, as the MAC array calculates with
    them at once.

    Members
    -------
    i : array of two In(PadRead), from the source and the residual of the engine
    o : array of two Out(PadRead), to the scratchpads
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__({"i": In(PadRead(config)).array(2), "o": Out(PadRead(config)).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        (first, second), (source, residual) = self.i, self.o
        m.d.comb += [first.ready.eq(1), second.ready.eq(~(source.valid & (source.pad == second.pad)))]
        m.d.sync += [source.valid.eq(first.valid), source.pad.eq(first.pad), source.address.eq(first.address)]
        m.d.comb += [
            residual.valid.eq(second.valid & second.ready),
            residual.pad.eq(second.pad),
            residual.address.eq(second.address),
            second.data.eq(residual.data),
            second.data_valid.eq(residual.data_valid),
        ]
        m.d.sync += first.data_valid.eq(source.data_valid)
        with m.If(source.data_valid):
            m.d.sync += first.data.eq(source.data)
        return m
