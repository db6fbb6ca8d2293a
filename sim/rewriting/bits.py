"""Expressions that only pick bits: signals, slices, constants, and concatenations of these."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sim.rewriting.text import NAME

__all__ = ["Bits", "bits_of", "part_text", "printed", "qualified", "select", "substitute", "verilog_of", "width_of"]

REFERENCE = re.compile(
    r"(?P<other>\d+'s?[hbdo][\da-fA-FxXzZ?]+|\$[a-z]\w*)|"
    rf"(?P<name>{NAME})(?: ?\[(?P<high>\d+)(?::(?P<low>\d+))?\])?"
)
ELEMENT = re.compile(r"(?:[^,{}]|\{[^{}]*\})+")  # of a concatenation
CONSTANT = re.compile(r"(?P<width>\d+)'(?P<base>[hbd])(?P<digits>[\da-f]+)")
BASES = {"h": 16, "b": 2, "d": 10}


@dataclass(frozen=True)
class Bits:
    """`width` bits of a signal, or, if it has no name, of a constant, from bit `low` on."""

    name: str | None
    low: int
    width: int
    value: int = 0


def printed(name: str) -> str:
    """A name as it stands in Verilog: escaped ones end with a space."""
    return f"{name} " if name.startswith("\\") else name


def qualified(prefix: str, name: str) -> str:
    """The name in a scope of its own."""
    return "\\" + prefix.removeprefix("\\") + "." + name.removeprefix("\\")


def part_text(high: int | None, low: int | None) -> str:
    """What follows the name of a signal of which bits high to low are picked, or the whole if there are none."""
    if high is None:
        return ""
    return f"[{high}]" if high == low else f"[{high}:{low}]"


def bits_of(expression: str, widths: Mapping[str, int]) -> list[Bits] | None:
    """The parts of an expression, the highest first; None if it does more than pick bits."""
    expression = expression.strip()
    if expression.startswith("{ ") and expression.endswith(" }"):
        parts = [bits_of(part, widths) for part in ELEMENT.findall(expression[2:-2])]
        return None if None in parts else [bits for part in parts for bits in part]
    if match := CONSTANT.fullmatch(expression):
        return [Bits(None, 0, int(match["width"]), int(match["digits"], BASES[match["base"]]))]
    match = REFERENCE.fullmatch(expression + " " * expression.startswith("\\")) or REFERENCE.fullmatch(expression)
    if not match or not match["name"] or match["name"].rstrip() not in widths:
        return None
    name = match["name"].rstrip()
    if match["high"] is None:
        return [Bits(name, 0, widths[name])]
    low = int(match["low"] or match["high"])
    return [Bits(name, low, int(match["high"]) - low + 1)]


def width_of(expression: str, widths: Mapping[str, int]) -> int | None:
    """Bits of an expression; None if it does more than pick bits."""
    bits = bits_of(expression, widths)
    return None if bits is None else sum(part.width for part in bits)


def select(parts: list[Bits], high: int, low: int) -> list[Bits]:
    """Bits high to low of the whole."""
    selected, offset = [], sum(part.width for part in parts)
    for part in parts:
        offset -= part.width
        first, last = max(low, offset), min(high, offset + part.width - 1)
        if first <= last:
            selected.append(replace(part, low=part.low + first - offset, width=last - first + 1))
    return selected


def verilog_of(parts: list[Bits], widths: Mapping[str, int], reference: Callable[[str], str] = printed) -> str:
    """The expression; `reference` gives the text of a whole signal."""

    def one(part: Bits) -> str:
        if part.name is None:
            return f"{part.width}'h{part.value >> part.low & (1 << part.width) - 1:x}"
        if part.width == widths[part.name]:
            return reference(part.name)
        return reference(part.name) + part_text(part.low + part.width - 1, part.low)

    texts = [one(part) for part in parts]
    return texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"


def substitute(text: str, replacement: Callable[[str, int | None, int | None], str | None]) -> str:
    """The text with other references: `replacement` gets the name of each, and the highest and the lowest bit if it is
    a slice, and gives the text in its place, or None to keep it."""

    def one(match: re.Match[str]) -> str:
        if not match["name"]:
            return match[0]
        high = None if match["high"] is None else int(match["high"])
        low = high if match["low"] is None else int(match["low"])
        text = replacement(match["name"].rstrip(), high, low)
        return match[0] if text is None else text

    return REFERENCE.sub(one, text)
