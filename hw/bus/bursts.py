"""Commands of any length, cut into AXI4 bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import ADDRESS_BITS, MAX_BURST_BEATS

__all__ = ["BurstSplitter", "burst_command", "burst_request"]

BEATS_BITS = 32  #: at most
INDEX_BITS = MAX_BURST_BEATS.bit_length() - 1


def burst_command(address_bits: int = ADDRESS_BITS) -> data.StructLayout:
    """Transfer `beats` beats from or to `address`, a multiple of the bus width in bytes."""
    return data.StructLayout({"address": address_bits, "beats": min(BEATS_BITS, address_bits)})


def burst_request(address_bits: int = ADDRESS_BITS) -> data.StructLayout:
    """One burst of 1 to `MAX_BURST_BEATS` beats; `last` of its command."""
    beats = unsigned(MAX_BURST_BEATS.bit_length())
    return data.StructLayout({"address": address_bits, "beats": beats, "last": 1})


def extent_layout(blocks_bits: int) -> data.StructLayout:
    """A command in blocks of `MAX_BURST_BEATS`: `last_index` is where its last beat lies within its block. `single`:
    there are no more blocks, but `less_1` beats, and one."""
    return data.StructLayout({"last_index": INDEX_BITS, "more_blocks": blocks_bits, "single": 1, "less_1": INDEX_BITS})


class BurstSplitter(wiring.Component):
    """Cut commands into bursts that end at multiples of `MAX_BURST_BEATS` beats.

    Such bursts never cross 4096 bytes, because 4096 is a multiple of their longest size. `burst` and `command.ready`
    are registers. A command's first burst is offered from the third cycle after the command was taken; one burst per
    cycle, without bubbles between commands, which are taken in every second cycle. Commands of 0 beats are dropped.

    Parameters
    ----------
    data_width : bits of the bus, at most 2048.
    address_bits : of an address.

    Members
    -------
    command : In(stream of burst_command)
    burst : Out(stream of burst_request)
    """

    def __init__(self, data_width: int, address_bits: int = ADDRESS_BITS) -> None:
        size_bits = (data_width // 8).bit_length() - 1
        self._size_bits, self._word_address_bits = size_bits, address_bits - size_bits
        command, request = burst_command(address_bits), burst_request(address_bits)
        self._beats_bits = command["beats"].width
        self._blocks_bits = self._beats_bits - INDEX_BITS + 1
        super().__init__({"command": In(stream.Signature(command)), "burst": Out(stream.Signature(request))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        burst = self.burst.payload
        block = Signal(self._word_address_bits - INDEX_BITS)
        index = Signal(INDEX_BITS)  # of the burst's first beat in its block of the longest burst
        last_index = Signal(INDEX_BITS)  # of the command's last beat in its block
        blocks_left = Signal(self._blocks_bits)  # after this one
        next_is_last = blocks_left == 1
        m.d.comb += burst.address.eq(Cat(Const(0, self._size_bits), index, block))
        with m.If(self.burst.valid & self.burst.ready):
            m.d.sync += [
                block.eq(block + 1),
                index.eq(0),
                blocks_left.eq(blocks_left - 1),
                burst.beats.eq(Mux(next_is_last, last_index + 1, MAX_BURST_BEATS)),
                burst.last.eq(next_is_last),
                self.burst.valid.eq(~burst.last),
            ]

        measured, first = self._measure(m)
        extent = measured.payload
        m.d.comb += measured.ready.eq(~self.burst.valid | (self.burst.ready & burst.last))
        with m.If(measured.valid & measured.ready):
            m.d.sync += [
                Cat(index, block).eq(first),
                last_index.eq(extent.last_index),
                blocks_left.eq(extent.more_blocks),
                burst.beats.eq(Mux(extent.single, extent.less_1, ~first[:INDEX_BITS]) + 1),
                burst.last.eq(extent.single),
                self.burst.valid.eq(1),
            ]
        return m

    def _measure(self, m: Module) -> tuple[stream.Interface, Signal]:
        """Take a command, and find its extent in the cycle after. Returns that, and the address of its first beat."""
        incoming = self.command.payload
        raw, beats_less_1 = Signal(self._word_address_bits), Signal(signed(self._beats_bits + 1))
        waiting = Signal()
        measured = stream.Signature(extent_layout(self._blocks_bits)).create()
        first = Signal(self._word_address_bits)
        last = raw[:INDEX_BITS] + beats_less_1
        more_blocks = (last >> INDEX_BITS)[: self._blocks_bits]
        passes = ~measured.valid | measured.ready
        m.d.comb += self.command.ready.eq(~waiting)
        with m.If(self.command.valid & ~waiting):
            m.d.sync += [waiting.eq(1), raw.eq(incoming.address >> self._size_bits)]
            m.d.sync += beats_less_1.eq(incoming.beats - 1)
        with m.Elif(passes):
            m.d.sync += waiting.eq(0)
        with m.If(passes):
            m.d.sync += [
                first.eq(raw),
                measured.payload.last_index.eq(last),
                measured.payload.more_blocks.eq(more_blocks),
                measured.payload.single.eq(more_blocks == 0),
                measured.payload.less_1.eq(beats_less_1),
                measured.valid.eq(waiting & (beats_less_1 >= 0)),
            ]
        return measured, first
