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

    A packet is offered in the cycle after its last beat, and blocks the input until it is taken: one packet per
    `PACKET_BYTES / bus_bytes + 1` cycles.

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
        taken = self.i.valid & self.i.ready
        bits = self.o.payload.bits
        m.d.comb += [
            self.i.ready.eq(~self.o.valid),
            crc.valid.eq(taken),
            crc.first.eq(beat == 0),
            crc.word.eq(self.i.payload),
            self.o.payload.intact.eq(crc.intact),
        ]
        with m.If(taken):
            m.d.sync += [
                bits.eq(Cat(bits[self._bus_bits :], self.i.payload)),
                beat.eq(beat + 1),
                self.o.valid.eq(beat == self._beats - 1),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
