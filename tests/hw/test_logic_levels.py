"""Levels of logic of small netlists, with the cells of several FPGA families."""

import pytest

from hw.logic_levels import START, Path, Timing, analyse


def cell(kind: str, inputs: dict[str, list], outputs: dict[str, list], **parameters: str) -> dict:
    directions = {name: "input" for name in inputs} | {name: "output" for name in outputs}
    return {"type": kind, "connections": inputs | outputs, "port_directions": directions, "parameters": parameters}


def module(
    cells: dict[str, dict], inputs: dict[str, list] | None = None, outputs: dict[str, list] | None = None
) -> dict:
    ports = {name: {"direction": "input", "bits": bits} for name, bits in (inputs or {}).items()}
    ports |= {name: {"direction": "output", "bits": bits} for name, bits in (outputs or {}).items()}
    return {"ports": ports, "cells": cells}


def between_registers(*cells: dict) -> Timing:
    """Register `a` drives net 10; register `b` reads net 20."""
    registers = {
        "a": cell("FDRE", {"C": [2], "D": ["0"]}, {"Q": [10]}),
        "b": cell("FDRE", {"C": [2], "D": [20]}, {"Q": [30]}),
    }
    return analyse(module(registers | {f"c{i}": c for i, c in enumerate(cells)}, {"clk": [2]}, {}), {})


def test_luts_in_a_row() -> None:
    timing = between_registers(
        cell("LUT2", {"I0": [10], "I1": ["1"]}, {"O": [11]}),
        cell("INV", {"I": [11]}, {"O": [12]}),
        cell("LUT6", {"I0": [12], "I1": [10]}, {"O": [20]}),
    )
    assert timing.worst == Path(2, "a", "b")


@pytest.mark.parametrize(
    ("kind", "carry_in", "carry_out"), [("CCU2C", "CIN", "COUT"), ("CARRY4", "CI", "CO"), ("ALU", "CIN", "COUT")]
)
def test_a_carry_chain_is_one_level(kind: str, carry_in: str, carry_out: str) -> None:
    timing = between_registers(
        cell(kind, {"A0": [10], carry_in: ["0"]}, {carry_out: [11]}),
        cell(kind, {"A0": [10], carry_in: [11]}, {carry_out: [12]}),
        cell(kind, {"A0": ["1"], carry_in: [12]}, {"S": [20]}),
    )
    assert timing.worst.levels == 1


def test_a_carry_cell_may_feed_its_higher_bits() -> None:
    """A sum bit that passes a LUT on its way to the next bit of the same cell is no loop."""
    timing = between_registers(
        cell("CARRY4", {"S": [10, 12, "0", "0"], "CI": ["0"]}, {"O": [11, 20, 97, 98]}),
        cell("LUT1", {"I0": [11]}, {"O": [12]}),
    )
    assert timing.worst == Path(3, "a", "b")


def test_a_lut_ram_is_read_in_one_level_and_written_at_an_edge() -> None:
    def ram(address: int, value: int) -> dict:
        return cell("TRELLIS_DPR16X4", {"RAD": [address], "DI": [value], "WRE": ["1"]}, {"DO": [20]})

    assert between_registers(ram(10, 99)).worst == Path(1, "a", "b")
    assert between_registers(ram(99, 10)).worst == Path(0, "a", "c0")


def test_registered_operand_of_a_multiplier() -> None:
    """What is added to the product waits in a register of the block, so an accumulator around it is no loop."""
    timing = between_registers(
        cell("DSP48E1", {"A": [10], "C": [11]}, {"P": [20]}, CREG="1"),
        cell("LUT2", {"I0": [20]}, {"O": [11]}),
    )
    assert timing.worst == Path(2, "c0", "c0")


def test_multipliers_with_and_without_registers() -> None:
    def multiplier(register: str) -> dict:
        return cell("DSP48E2", {"A": [10]}, {"P": [20]}, MREG=register)

    assert between_registers(multiplier("0" * 32)).worst == Path(1, "a", "b")
    assert between_registers(multiplier("0" * 31 + "1")).worst == Path(0, "c0", "b")


CHILD = module(
    {
        "lut": cell("LUT4", {"A": [3], "B": [4]}, {"Z": [5]}),
        "late": cell("LUT4", {"A": [5]}, {"Z": [6]}),
        "ff": cell("TRELLIS_FF", {"CLK": [2], "DI": [6]}, {"Q": [4]}),
    },
    {"clk": [2], "x": [3, 9]},
    {"y": [5, 4]},
)


def test_summary_of_a_module() -> None:
    timing = analyse(CHILD, {})
    assert timing.worst == Path(2, "ff", "ff")
    assert timing.inputs == {("clk", 0): Path(0, "clk[0]", "ff"), ("x", 0): Path(2, "x[0]", "ff")}
    levels = {port: {source: path.levels for source, path in paths.items()} for port, paths in timing.outputs.items()}
    assert levels == {("y", 0): {("x", 0): 1, START: 1}, ("y", 1): {START: 0}}


def test_paths_through_modules() -> None:
    """From the register of one child, through another one, into a third."""
    child = analyse(CHILD, {})
    cells = {
        "first": cell("child", {"clk": [2], "x": ["0", "0"]}, {"y": [10, 11]}),
        "second": cell("child", {"clk": [2], "x": [10, "0"]}, {"y": [12, 13]}),
        "third": cell("child", {"clk": [2], "x": [12, "0"]}, {"y": [14, 15]}),
    }
    timing = analyse(module(cells, {"clk": [2]}, {}), {"child": child})
    assert timing.worst == Path(1 + 1 + 2, "first.ff", "third.ff")


def test_a_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="loop over 3 nets"):
        between_registers(
            cell("LUT2", {"A": [11]}, {"Z": [12]}), cell("LUT2", {"A": [12], "B": [10]}, {"Z": [11]}),
        )  # fmt: skip
