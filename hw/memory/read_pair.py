"""A register stage for two read requests that come from far and must not be refused later."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.interfaces import PadRead

__all__ = ["ReadPair"]


class ReadPair(wiring.Component):
    """Requests of the matmul engine in registers: from there it is a long way to the memories of a scratchpad.

    Throughput: one request per cycle and port. Data comes exactly `MATMUL_READ_LATENCY` (first port) and
    `RESIDUAL_READ_LATENCY` (second port) cycles after its request was taken, if the scratchpads refuse neither port.
    The first port is never refused. Its requests take a cycle longer, so that `ready` of the second port comes from
    registers: it is 0 when both would ask for the same pad. Its data take a cycle longer, too, as the MAC array
    calculates with them at once.

    Members
    -------
    i : array of two In(PadRead), from the source and the residual of the engine
    o : array of two Out(PadRead), to the scratchpads
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__({"i": In(PadRead(config)).array(2), "o": Out(PadRead(config)).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = self.i
        earlier = PadRead(self._config).create()
        m.d.comb += [first.ready.eq(1), second.ready.eq(~(earlier.valid & (earlier.pad == second.pad)))]
        for i, o in ((first, earlier), (earlier, self.o[0]), (second, self.o[1])):
            m.d.sync += [o.valid.eq(i.valid), o.pad.eq(i.pad), o.address.eq(i.address)]
        m.d.sync += self.o[1].valid.eq(second.valid & second.ready)
        m.d.comb += [second.data.eq(self.o[1].data), second.data_valid.eq(self.o[1].data_valid)]
        m.d.sync += first.data_valid.eq(self.o[0].data_valid)
        with m.If(self.o[0].data_valid):
            m.d.sync += first.data.eq(self.o[0].data)
        return m
