"""Compact Verilog for memories that start at zero."""

import re
from itertools import count

__all__ = ["compact_zero_memories"]

ZERO_WORD = r"    (?P<memory>\\\S+ |\w+)\[\d+\] = (?P<width>\d+)'h0+;\n"
ZERO_BLOCK = re.compile(rf"  initial begin\n{ZERO_WORD}(?:    (?P=memory)\[\d+\] = (?P=width)'h0+;\n)+  end\n")


def compact_zero_memories(text: str) -> str:
    """Replace Amaranth's initial blocks that set a whole memory to 0, word by word, with loops.

    The words of the scratchpads would otherwise be most of the text, and slow to compile.
    """
    numbers = count()

    def loop(match: re.Match) -> str:
        memory, words = match["memory"], match[0].count("\n") - 2
        return (
            f"  initial begin : zero_memory_{next(numbers)}\n"
            "    integer i;\n"
            f"    for (i = 0; i < {words}; i = i + 1) {memory}[i] = {match['width']}'h0;\n"
            "  end\n"
        )

    return ZERO_BLOCK.sub(loop, text)
