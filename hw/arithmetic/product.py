"""Products, by multiplier blocks or in logic."""

from amaranth.hdl import Mux, Value

from hw.config import Multipliers

__all__ = ["product"]

DIGIT_BITS = 2  #: bits of one factor that select a multiple of the other


def product(a: Value, b: Value, style: Multipliers) -> Value:
    """`a * b`, not both signed. With `Multipliers.LOGIC` it takes no multiplier block.

    Synthesis maps a plain product to a block, so in logic it is a tree of multiples of one factor: 0, b, 2b, or 3b for
    every two bits of the unsigned factor a.
    """
    if style is not Multipliers.LOGIC:
        return a * b
    if a.shape().signed:
        a, b = b, a
    if a.shape().signed:
        raise ValueError("both factors are signed")

    def exact(value: Value, bits: int) -> Value:
        """A product of b and `bits` bits. Without spare bits, Yosys keeps carry chains apart: fewer LUTs."""
        value = value[: bits + len(b)]
        return value.as_signed() if b.shape().signed else value

    tripled = b + (b << 1)
    digits = [a[i : i + DIGIT_BITS] for i in range(0, len(a), DIGIT_BITS)]
    terms = [(Mux(d[1:], Mux(d[0], tripled, b << 1), Mux(d[0], b, 0)), len(d)) for d in digits]
    while len(terms) > 1:
        sums = [
            (exact(low + (high << bits), bits + high_bits), bits + high_bits)
            for (low, bits), (high, high_bits) in zip(terms[::2], terms[1::2])
        ]
        terms = sums + terms[2 * len(sums) :]
    return exact(*terms[0])
