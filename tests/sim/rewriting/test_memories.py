"""Memories that are read and written in one process."""

from pathlib import Path

import pytest

from hw.memory.ram import Ram
from sim.rewriting.memories import write_behind_reads
from sim.rewriting.text import MODULE
from tests.sim.rewriting.support import prove, text_of


def rewritten(text: str) -> str:
    return MODULE.sub(lambda match: write_behind_reads(match[0]), text)


@pytest.mark.parametrize("granularity", [4, 2], ids=["words", "parts"])
def test_memories_are_the_same(granularity: int, tmp_path: Path) -> None:
    gold = text_of(Ram(width=4, depth=4, granularity=granularity))
    gate = rewritten(gold)
    assert gate.count("always @(posedge clk)") == 1 and "] = write_data" in gate
    assert prove(tmp_path, "dut", gold, gate).returncode == 0
    for right, wrong in (("] = write_data", "] = ~write_data"), ("<= ~words", "<= words"), ("|write", "&write")):
        assert right in gate
        if granularity == 2 or right != "|write":
            assert prove(tmp_path, "dut", gold, gate.replace(right, wrong)).returncode != 0


def test_writes_before_reads_fail(tmp_path: Path) -> None:
    gold = text_of(Ram(width=4, depth=4))
    gate = rewritten(gold)
    read, write = gate.index("    if (read_enable)"), gate.index("    if (|write_enable)")
    end = gate.index("  end\nendmodule", write)
    swapped = gate[:read] + gate[write:end] + gate[read:write] + gate[end:]
    assert prove(tmp_path, "dut", gold, swapped).returncode != 0


def test_other_modules_stay() -> None:
    text = text_of(Ram(width=4, depth=4)).replace("module ram_", "module rom_")
    assert rewritten(text) == text
