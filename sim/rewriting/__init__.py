"""The Verilog of an accelerator, rewritten so that Verilator simulates it fast: the same hardware in other words."""

from collections.abc import Callable
from functools import lru_cache

from sim.rewriting.expressions import nest_sums, repeat_elements, share_duplicates
from sim.rewriting.lanes import loop_over_lanes
from sim.rewriting.memories import write_behind_reads
from sim.rewriting.modules import share_modules
from sim.rewriting.registers import update_where_enabled
from sim.rewriting.text import MODULE

__all__ = ["rewrite"]


@lru_cache(maxsize=4)  # one accelerator is simulated many times
def rewrite(verilog: str) -> str:
    """All passes over Yosys' Verilog."""
    verilog = share_modules(verilog)
    for one in (update_where_enabled, share_duplicates, nest_sums):
        verilog = _in_each_module(one, verilog)
    verilog = loop_over_lanes(verilog)
    for one in (repeat_elements, write_behind_reads):
        verilog = _in_each_module(one, verilog)
    return verilog


def _in_each_module(one: Callable[[str], str], verilog: str) -> str:
    return MODULE.sub(lambda match: one(match[0]), verilog)
