"""The forms in which Yosys writes a module, one statement or process after the other."""

import re

__all__ = [
    "ASSIGN",
    "MODULE",
    "NAME",
    "PROCESS",
    "identifiers",
    "is_temporary",
    "port_names",
    "remove_declarations",
    "widths",
]

NAME = r"(?:\\\S+ |[A-Za-z_][\w$]*)"  # an escaped identifier ends with its space
MODULE = re.compile(r"^module .*?^endmodule", re.MULTILINE | re.DOTALL)
ASSIGN = re.compile(rf"^  assign (?P<name>{NAME}) ?= (?P<value>.*);\n", re.MULTILINE)
#: a combinational process that drives one signal
PROCESS = re.compile(
    r"^  always @\* begin\n(?:    if \(time_zero\) begin end\n)?"
    rf"(?P<body>    (?P<name>{NAME}) ?= (?P<default>.*);\n(?P<rest>(?:    .*\n)*))  end\n",
    re.MULTILINE,
)

CONSTANT = re.compile(r"\d+'s?[hbdo][\da-fA-FxXzZ?]+")
IDENTIFIER = re.compile(NAME)
DECLARATION = re.compile(rf"^  (?:wire|reg) (?:\[(?P<high>\d+):0\] )?(?P<name>{NAME}) ?(?:= .*)?;\n", re.MULTILINE)
PORT = re.compile(rf"^  (?:input|output|inout) (?:\[\d+:\d+\] )?(?P<name>{NAME}) ?;", re.MULTILINE)
TEMPORARY = re.compile(r"\\\$\d+")


def identifiers(text: str) -> list[str]:
    """All identifiers, keywords included, as often as they occur, without the space behind escaped ones."""
    return [name.rstrip() for name in IDENTIFIER.findall(CONSTANT.sub("", text))]


def is_temporary(name: str) -> bool:
    """Whether the name is one that Amaranth gave to the value of an expression."""
    return TEMPORARY.fullmatch(name) is not None


def port_names(text: str) -> set[str]:
    """Of a module."""
    return {match["name"].rstrip() for match in PORT.finditer(text)}


def widths(text: str) -> dict[str, int]:
    """Bits of the unsigned signals that a module declares, ports included."""
    return {match["name"].rstrip(): int(match["high"] or 0) + 1 for match in DECLARATION.finditer(text)}


def remove_declarations(text: str, names: set[str] | dict[str, str]) -> str:
    """The module without the declarations of these signals."""
    return DECLARATION.sub(lambda match: "" if match["name"].rstrip() in names else match[0], text)
