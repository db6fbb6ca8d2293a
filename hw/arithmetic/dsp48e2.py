"""The DSP48E2 block of UltraScale+ devices (UG579), as an instance of which only the used ports are named."""

from amaranth.hdl import Cat, Const, Instance, Value

__all__ = ["A_BITS", "B_BITS", "PRODUCT_BITS", "P_BITS", "dsp48e2", "extend"]

A_BITS, B_BITS, P_BITS = 30, 18, 48  #: of ports
PRODUCT_BITS = 45  #: of the multiplier, 27 by 18 bits

REGISTERS = (
    "A", "ACASC", "AD", "ALUMODE", "B", "BCASC", "C", "CARRYIN", "CARRYINSEL", "D", "INMODE", "M", "OPMODE", "P",
)  # fmt: skip
INPUTS = {
    "A": A_BITS, "B": B_BITS, "C": P_BITS, "D": 27, "ACIN": A_BITS, "BCIN": B_BITS, "PCIN": P_BITS, "OPMODE": 9,
    "ALUMODE": 4, "CARRYINSEL": 3, "INMODE": 5, "CARRYCASCIN": 1, "CARRYIN": 1, "MULTSIGNIN": 1,
}  # fmt: skip
ENABLES = ("A1", "A2", "AD", "ALUMODE", "B1", "B2", "C", "CARRYIN", "CTRL", "D", "INMODE", "M", "P")
RESETS = ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")


def dsp48e2(*, registers: dict[str, int], **connections: object) -> Instance:
    """An instance with these registers and connections; other registers are bypassed, other inputs 0."""
    inputs = INPUTS | {f"CE{name}": 1 for name in ENABLES} | {f"RST{name}": 1 for name in RESETS}
    constants = {f"i_{name}": Const(0, width) for name, width in inputs.items()}
    parameters = {f"p_{name}REG": registers.get(name, 0) for name in REGISTERS}
    return Instance("DSP48E2", **parameters | constants | connections)


def extend(value: Value, width: int) -> Value:
    """The same number in `width` bits."""
    return Cat(value, (value[-1] if value.shape().signed else Const(0)).replicate(width - len(value)))
