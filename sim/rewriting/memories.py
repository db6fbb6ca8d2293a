"""Memories that Verilator writes at once."""

import re

__all__ = ["write_behind_reads"]

#: a module of `hw.memory.ram`
RAM = re.compile(
    r"(?P<head>module ram_\w+\(.*?)"
    r"  always @\(posedge clk\) begin\n(?P<write>    if \(\|write_enable\)\n(?:    .*\n)+)  end\n"
    r"  always @\(posedge clk\)\n(?P<read>    if \(read_enable\) begin\n(?:    .*\n|`.*\n)+    end\n)endmodule",
    re.DOTALL,
)


def write_behind_reads(text: str) -> str:
    """The same module; if it is a memory, it is read and written in one process, in this order.

    Verilator puts off nonblocking assignments of words, address and all, and looks in every cycle whether there are
    any: one for each part that is enabled on its own. Behind all that reads the words, the assignments can be blocking.
    """
    match = RAM.fullmatch(text)
    if not match:
        return text
    write = re.sub(r"^( +words\[.*?) <= ", r"\1 = ", match["write"], flags=re.MULTILINE)
    return f"{match['head']}  always @(posedge clk) begin\n{match['read']}{write}  end\nendmodule"
