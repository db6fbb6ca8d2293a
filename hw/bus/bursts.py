"""Commands of any length, cut into AXI4 bursts."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import ADDRESS_BITS, MAX_BURST_BEATS

__all__ = ["BurstCommand", "BurstRequest", "BurstSplitter"]

BEATS_BITS = 32


class BurstCommand(data.Struct):
    """Transfer `beats` beats from or to `address`, a multiple of the bus width in bytes."""

    address: ADDRESS_BITS
    beats: BEATS_BITS


class BurstRequest(data.Struct):
    """One burst of 1 to `MAX_BURST_BEATS` beats; `last` of its command."""

    address: ADDRESS_BITS
    beats: unsigned(MAX_BURST_BEATS.bit_length())
    last: 1


class BurstSplitter(wiring.Component):
    """Cut commands into bursts that end at multiples of `MAX_BURST_BEATS` beats.

    Such bursts never cross 4096 bytes, because 4096 is a multiple of their longest size. A burst is offered from the
    cycle after its command was taken; one burst per cycle, without bubbles between commands. Commands of 0 beats are
    dropped.

    Parameters
    ----------
    data_width : bits of the bus, at most 2048.

    Members
    -------
    command : In(stream of BurstCommand)
    burst : Out(stream of BurstRequest)
    """

    def __init__(self, data_width: int) -> None:
        self._size_bits = (data_width // 8).bit_length() - 1
        super().__init__({"command": In(stream.Signature(BurstCommand)), "burst": Out(stream.Signature(BurstRequest))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size_bits = self._size_bits
        address = Signal(ADDRESS_BITS - size_bits)  # in beats
        remaining = Signal(BEATS_BITS)
        active = Signal()

        # the burst reaches the next multiple of the longest burst, or the end of the command
        to_boundary = Signal(range(MAX_BURST_BEATS + 1))
        beats = Signal(range(MAX_BURST_BEATS + 1))
        last = Signal()
        index_bits = MAX_BURST_BEATS.bit_length() - 1
        m.d.comb += [
            to_boundary.eq(MAX_BURST_BEATS - address[:index_bits]),
            last.eq(remaining <= to_boundary),
            beats.eq(Mux(last, remaining, to_boundary)),
            self.burst.payload.address.eq(address << size_bits),
            self.burst.payload.beats.eq(beats),
            self.burst.payload.last.eq(last),
            self.burst.valid.eq(active),
        ]

        taken = self.burst.valid & self.burst.ready
        m.d.comb += self.command.ready.eq(~active | (taken & last))
        with m.If(taken):
            m.d.sync += [
                address.eq(address + beats),
                remaining.eq(remaining - beats),
                active.eq(~last),
            ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [
                address.eq(self.command.payload.address >> size_bits),
                remaining.eq(self.command.payload.beats),
                active.eq(self.command.payload.beats != 0),
            ]
        return m
