"""Expressions that only pick bits."""

import pytest

from sim.rewriting.bits import Bits, bits_of, select, substitute, verilog_of

WIDTHS = {"a": 8, "\\b[0]": 1, "\\$1": 4}


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("a", [Bits("a", 0, 8)]),
        ("\\$1 ", [Bits("\\$1", 0, 4)]),
        ("a[5:2]", [Bits("a", 2, 4)]),
        ("\\$1 [3]", [Bits("\\$1", 3, 1)]),
        ("4'ha", [Bits(None, 0, 4, 10)]),
        ("{ \\b[0] , { a[0], 2'h1 } }", [Bits("\\b[0]", 0, 1), Bits("a", 0, 1), Bits(None, 0, 2, 1)]),
    ],
)
def test_parts(expression: str, parts: list[Bits]) -> None:
    assert bits_of(expression, WIDTHS) == parts
    assert bits_of(verilog_of(parts, WIDTHS), WIDTHS) == parts


@pytest.mark.parametrize("expression", ["a + a", "~ a", "{ {2{a}}, a }", "$signed(a)", "c", "a[\\$1 ]", "4'bx"])
def test_other_expressions_are_not_known(expression: str) -> None:
    assert bits_of(expression, WIDTHS) is None


@pytest.mark.parametrize(
    ("high", "low", "picked"),
    [
        (12, 0, "{ a, \\b[0] , 4'ha }"),
        (4, 4, "\\b[0] "),
        (6, 3, "{ a[1:0], \\b[0] , 1'h1 }"),
        (2, 1, "2'h1"),
        (12, 11, "a[7:6]"),
    ],
)
def test_selection(high: int, low: int, picked: str) -> None:
    assert verilog_of(select(bits_of("{ a, \\b[0] , 4'ha }", WIDTHS), high, low), WIDTHS) == picked


def test_substitution_knows_names_from_numbers_and_functions() -> None:
    seen = []
    text = "\\$1 [2] = $signed(a[7:4]) + 4'ha; // \\b[0] "
    assert substitute(text, lambda *reference: seen.append(reference)) == text
    assert seen == [("\\$1", 2, 2), ("a", 7, 4), ("\\b[0]", None, None)]
    assert substitute(text, lambda name, *part: "x" if name == "a" else None) == text.replace("a[7:4]", "x")
