"""The Verilog of an accelerator, rewritten so that Verilator simulates it fast: the same hardware in other words."""

from functools import lru_cache

from sim.rewriting.expressions import nest_sums, repeat_elements, share_duplicates
from sim.rewriting.gating import compute_where_enabled
from sim.rewriting.registers import update_where_enabled
from sim.rewriting.text import MODULE

__all__ = ["rewrite"]

PASSES = (update_where_enabled, share_duplicates, nest_sums, repeat_elements, compute_where_enabled)


@lru_cache(maxsize=4)  # one accelerator is simulated many times
def rewrite(verilog: str) -> str:
    """All passes over every module of Yosys' Verilog."""
    return MODULE.sub(lambda match: _in_module(match[0]), verilog)


def _in_module(text: str) -> str:
    for one in PASSES:
        text = one(text)
    return text
