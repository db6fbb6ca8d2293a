"""Writes the results of the matmul engine to their scratchpad."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.engines.matmul_drain import ticket_layout
from hw.interfaces import PadWrite, write_mask
from quant import numerics

__all__ = ["ResultWriter"]


class ResultWriter(wiring.Component):
    """Writes each result in the cycle after `valid`; the slices of a wide result follow, the low bits first.

    Parameters
    ----------
    in_flight : beats that are between their ticket and their result

    Members
    -------
    ticket : In
        With `ticket_valid`: destination of a beat, in order, at least one cycle before its result.
    y : In
        With `valid`: results [pixel][channel].
    done : Out(1)
        1 in the cycle of the last write of an instruction; `release`: its table banks, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig, in_flight: int) -> None:
        self._config = config
        self._in_flight = in_flight
        self._y = data.ArrayLayout(
            data.ArrayLayout(signed(numerics.OPERAND_BITS), config.requant_channels), config.pixels
        )
        super().__init__(
            {
                "ticket": In(ticket_layout(config)),
                "ticket_valid": In(1),
                "valid": In(1),
                "y": In(self._y),
                "write": Out(PadWrite(config)),
                "done": Out(1),
                "release": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, write = self._config, self.write
        # a ring that has room for all: nothing to be checked
        m.submodules.tickets = tickets = Memory(
            shape=self.ticket.shape(), depth=1 << (self._in_flight - 1).bit_length(), init=[]
        )
        came, next_ticket = tickets.write_port(), tickets.read_port(domain="comb")
        m.d.comb += [came.en.eq(self.ticket_valid), came.data.eq(self.ticket)]
        m.d.sync += [came.addr.eq(came.addr + self.ticket_valid), next_ticket.addr.eq(next_ticket.addr + self.valid)]

        y = Signal(self._y, reset_less=True)
        ticket = Signal.like(self.ticket)
        current = Signal(range(config.slices))
        last_slice = Signal()
        m.d.comb += [
            last_slice.eq(~ticket.wide | (current == config.slices - 1)),
            self.done.eq(write.valid & ticket.last & last_slice),
            self.release.eq(Mux(self.done, ticket.look_up, 0)),
            write.pad.eq(ticket.pad),
            write.address.eq(ticket.address),
        ]
        with m.If(self.valid):
            m.d.sync += [y.eq(self.y), ticket.eq(next_ticket.data), current.eq(0), write.valid.eq(1)]
        with m.Elif(last_slice):
            m.d.sync += write.valid.eq(0)
        with m.Else():
            m.d.sync += [ticket.address.eq(ticket.address + ticket.slice_stride), current.eq(current + 1)]
            m.d.sync += [code.eq(code >> config.act_bits) for codes in y for code in codes]

        for p in range(config.pixels):
            m.d.comb += write.mask[p].eq(write_mask(config, ticket.subblock, config.requant_channels))
            for i in range(config.in_lanes):
                m.d.comb += write.data[p][i].eq(y[p][i % config.requant_channels])
        return m
