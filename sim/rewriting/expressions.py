"""Expressions that Verilator turns into fewer operations."""

import re
from collections import Counter
from itertools import groupby

from sim.rewriting.bits import width_of
from sim.rewriting.text import ASSIGN, identifiers, is_temporary, port_names, remove_declarations, widths

__all__ = ["nest_sums", "repeat_elements", "share_duplicates"]

SUM = re.compile(r"\$signed\((?P<a>[^()]*)\) \+ \$signed\((?P<b>[^()]*)\)")
SIGNED_TEMPORARY = re.compile(r"\$signed\((?P<name>\\\$\d+) \)")
ELEMENTS = re.compile(r"\{ ([^{}]*,[^{}]*) \}")


def share_duplicates(text: str) -> str:
    """Temporaries of the same expression become one: Amaranth writes an expression again wherever it is used."""
    while True:
        bits, ports = widths(text), port_names(text)
        first, same = {}, {}
        for match in ASSIGN.finditer(text):
            name = match["name"].rstrip()
            if is_temporary(name) and name in bits and name not in ports:
                original = first.setdefault((match["value"], bits[name]), name)
                if original != name:
                    same[name] = original
        if not same:
            return text
        text = ASSIGN.sub(lambda match, same=same: "" if match["name"].rstrip() in same else match[0], text)
        text = remove_declarations(text, same)
        text = re.sub(r"(\\\$\d+) ", lambda match, same=same: f"{same.get(match[1], match[1])} ", text)


def nest_sums(text: str) -> str:
    """Sums of sums in one expression: each operand is extended once, to the width of the whole.

    A sum is put in place of its name where it is used once, as an operand of another sum, and is wider than its own
    operands, so that it lost nothing.
    """
    bits, uses = widths(text), Counter(identifiers(text))
    sums = {match["name"].rstrip(): match["value"] for match in ASSIGN.finditer(text) if SUM.fullmatch(match["value"])}
    inner = set()
    for value in sums.values():
        for match in SIGNED_TEMPORARY.finditer(value):
            name = match["name"]
            # declared, assigned, and used here
            if name in sums and uses[name] == 3 and _is_exact(name, sums[name], bits):
                inner.add(name)
    if not inner:
        return text

    def expanded(value: str) -> str:
        return SIGNED_TEMPORARY.sub(lambda m: expanded(sums[m["name"]]) if m["name"] in inner else m[0], value)

    def rewritten(match: re.Match[str]) -> str:
        name = match["name"].rstrip()
        if name in inner:
            return ""
        return f"  assign {match['name']} = {expanded(match['value'])};\n" if name in sums else match[0]

    return remove_declarations(ASSIGN.sub(rewritten, text), inner)


def repeat_elements(text: str) -> str:
    """`{ a, a, b }` as `{ {2{a}}, b }`."""

    def repeated(match: re.Match[str]) -> str:
        runs = [(element, len(list(run))) for element, run in groupby(match[1].split(", "))]
        # one element in braces of its own is still a concatenation
        return "{ " + ", ".join(e if count == 1 else f"{{{count}{{{e}}}}}" for e, count in runs) + " }"

    return ELEMENTS.sub(repeated, text)


def _is_exact(name: str, value: str, bits: dict[str, int]) -> bool:
    operands = [width_of(operand, bits) for operand in SUM.fullmatch(value).groups()]
    return name in bits and None not in operands and bits[name] > max(operands)
