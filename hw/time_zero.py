"""Makes generated Verilog begin in the same way in every simulator."""

import re

__all__ = ["evaluate_at_time_zero"]

# An event in every module once all processes wait for one: nonblocking, so after them. Verilator does without.
START = """\
  reg time_zero = 1;
`ifndef SYNTHESIS
`ifndef VERILATOR
  initial time_zero <= 0;
`endif
`endif
"""
YOSYS_START = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;\n", re.MULTILINE)
SHORT_PROCESS = re.compile(r"^  always @\*\n    (\S.*;)$", re.MULTILINE)


def evaluate_at_time_zero(verilog: str) -> str:
    """Let all `always @*` processes of Yosys' Verilog run once at time zero.

    They wait for a change of what they read, and what never changes, as the state of an engine that is idle from the
    beginning, leaves x on what they write. Yosys puts a variable with an initial value into most of them, but in
    SystemVerilog, as Icarus takes it through cocotb, initial values are there before any process waits.
    """
    return re.sub(r"^module .*?^endmodule", _in_module, verilog, flags=re.MULTILINE | re.DOTALL)


def _in_module(match: re.Match[str]) -> str:
    text = match[0]
    if "  always @*" not in text:
        return text
    if start := YOSYS_START.search(text):
        text = text.replace(start[0], "").replace(f"({start[1]})", "(time_zero)")
    text = SHORT_PROCESS.sub(r"  always @* begin\n    if (time_zero) begin end\n    \1\n  end", text)
    ports, rest = text.split(";\n", 1)
    return f"{ports};\n{START}{rest}"
