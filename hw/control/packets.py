"""Packets from bus beats, with their checksums."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.crc import Crc32
from hw.control.descriptors import PACKET_BYTES

__all__ = ["PacketAssembler"]


class PacketAssembler(wiring.Component):
    """Collect the beats of each packet, and check its CRC-32.

    A packet is offered from the third cycle after its last beat, and blocks the input until it is taken: one packet
    per `PACKET_BYTES / bus_bytes + 3` cycles.

    Members
    -------
    i : beats, low bits first
    o : `bits`, all 1024 of the packet, and `intact`: its checksum is right
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._bus_bits = config.bus_bits
        self._beats = PACKET_BYTES // config.bus_bytes
        super().__init__(
            {
                "i": In(stream.Signature(config.bus_bits)),
                "o": Out(stream.Signature(data.StructLayout({"bits": PACKET_BYTES * 8, "intact": 1}))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32(self._bus_bits)
        beat = Signal(range(self._beats))
        complete = Signal()
        checked = Signal()
        taken = self.i.valid & self.i.ready
        bits = self.o.payload.bits
        m.d.comb += [self.i.ready.eq(~complete), crc.word.eq(bits[-self._bus_bits :])]
        # the checksum follows a cycle behind: beats come from a block RAM, late in their cycle
        m.d.sync += [crc.valid.eq(taken), crc.first.eq(beat == 0), checked.eq(complete)]
        with m.If(taken):
            m.d.sync += [
                bits.eq(Cat(bits[self._bus_bits :], self.i.payload)),
                beat.eq(beat + 1),
                complete.eq(beat == self._beats - 1),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [complete.eq(0), self.o.valid.eq(0)]
        with m.Elif(complete & checked):
            m.d.sync += self.o.valid.eq(1)
        m.d.sync += self.o.payload.intact.eq(crc.intact)  # holds as long as no beat comes
        return m
