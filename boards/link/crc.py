"""CRC-32 of the bytes of a frame, bit by bit: the line is much slower."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.control.crc import CRC_BITS, INITIAL, POLYNOMIAL

__all__ = ["SerialCrc"]

BYTE_BITS = 8
RESIDUE = 0xDEBB20E3  #: the register after a message and its own CRC, low byte first


class SerialCrc(wiring.Component):
    """CRC-32 (ISO-HDLC, the one of zlib) of bytes, each in `BYTE_BITS` cycles.

    Members
    -------
    start : begin, with the byte that is taken in this cycle, if there is one
    i : In(stream of bytes)
    crc : of the bytes so far, while `i.ready` is 1
    intact : they end with the CRC of those before
    """

    start: In(1)
    i: In(stream.Signature(BYTE_BITS))
    crc: Out(CRC_BITS)
    intact: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        register = Signal(CRC_BITS)
        byte = Signal(BYTE_BITS)
        left = Signal(range(BYTE_BITS + 1))  # bits
        m.d.comb += [self.i.ready.eq(left == 0), self.crc.eq(~register), self.intact.eq(register == RESIDUE)]
        with m.If(~self.i.ready):
            m.d.sync += [
                register.eq((register >> 1) ^ Mux(register[0] ^ byte[0], POLYNOMIAL, 0)),
                byte.eq(byte >> 1),
                left.eq(left - 1),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += [byte.eq(self.i.payload), left.eq(BYTE_BITS)]
        with m.If(self.start):
            m.d.sync += register.eq(INITIAL)
        return m
