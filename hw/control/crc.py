"""CRC-32 (ISO-HDLC, the one of zlib) of a word per cycle."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Crc32"]

POLYNOMIAL = 0xEDB88320  #: reflected
CRC_BITS = 32
INITIAL = (1 << CRC_BITS) - 1


def advance(state: int, word: int, bits: int) -> int:
    """CRC register after the low `bits` bits of a word, lowest first."""
    for i in range(bits):
        state = state >> 1 ^ (POLYNOMIAL if (state ^ word >> i) & 1 else 0)
    return state


class Crc32(wiring.Component):
    """Checks messages of whole words that end with their own CRC-32, low bytes first.

    Each bit of the next register is the parity of some bits of register and word, because CRCs are linear. (The CRC of
    Amaranth's library is the same, but its chains of XOR exceed Python's recursion limit at 256 bits.)

    Members
    -------
    valid : a word comes
    first : it is the first one of its message
    word : the word
    intact : the words up to the last one end with the right CRC; one cycle later
    """

    def __init__(self, word_bits: int) -> None:
        self._word_bits = word_bits
        super().__init__({"valid": In(1), "first": In(1), "word": In(word_bits), "intact": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(CRC_BITS)
        before = Signal(CRC_BITS)
        m.d.comb += before.eq(Mux(self.first, INITIAL, state))
        inputs = Cat(before, self.word)
        effects = [advance(1 << i, 0, self._word_bits) for i in range(CRC_BITS)]
        effects += [advance(0, 1 << i, self._word_bits) for i in range(self._word_bits)]
        parities = [Cat(x for x, effect in zip(inputs, effects) if effect >> bit & 1).xor() for bit in range(CRC_BITS)]
        with m.If(self.valid):
            m.d.sync += state.eq(Cat(parities))
        # a message and its own CRC leave the same register as the empty message and its CRC, which is 0
        m.d.comb += self.intact.eq(state == advance(INITIAL, 0, CRC_BITS))
        return m
