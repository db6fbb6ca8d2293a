"""Registers that Verilator updates only when they change."""

import re
from collections import Counter

from sim.rewriting.text import NAME, PROCESS

__all__ = ["update_where_enabled"]

REGISTER = re.compile(rf"^  always @\(posedge clk\)\n    (?P<name>{NAME}) ?<= (?P<next>{NAME});\n", re.MULTILINE)


def update_where_enabled(text: str) -> str:
    """The same module, with each register and the combinational process of its next value as one process.

    Yosys writes `next = x; if (enable) next = value;` and `x <= next`: every register is loaded and stored in every
    cycle. As `if (enable) x <= value`, idle engines cost nothing. Processes that are not of this form, or whose next
    value is read elsewhere, stay as they are.
    """
    registers = {match["next"]: match["name"] for match in REGISTER.finditer(text)}
    uses = Counter(re.findall(NAME, text)) if registers else Counter()
    merged = {}
    for match in PROCESS.finditer(text):
        following = match["name"]
        assigned = re.compile(rf"^( +){re.escape(following)}(?![\w$])(.*?) ?= ", re.MULTILINE)
        assignments = len(assigned.findall(match[0]))
        # declared, assigned here, and taken by its register: nobody else reads it, nor is it assigned twice on a line
        if following not in registers or uses[following] != assignments + 2:
            continue
        name = registers[following]
        rest = assigned.sub(lambda m, name=name: f"{m[1]}{name}{m[2]} <= ", match["rest"])
        default = "" if match["default"].strip() == name.strip() else f"    {name} <= {match['default']};\n"
        merged[following] = f"  always @(posedge clk) begin\n{default}{rest}  end\n"
    text = PROCESS.sub(lambda match: "" if match["name"] in merged else match[0], text)
    return REGISTER.sub(lambda match: merged.get(match["next"], match[0]), text)
