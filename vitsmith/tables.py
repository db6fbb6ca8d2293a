"""What the widths of the integer tables are worth, as a page."""

from collections.abc import Mapping, Sequence

from quant.tables import CODE_BITS, TableRow

__all__ = ["tables_markdown"]

_HEADER = ("index bits", "table bits", "worst error", "rms error", *(f"{bits} bits" for bits in CODE_BITS))


def tables_markdown(tables: Mapping[str, Sequence[TableRow]], *, command: str) -> str:
    """One section per table, whose title is its key."""
    lines = [
        "# Widths of the integer tables",
        "",
        "Errors over the whole range of the argument, relative to the exact value, those of GELU absolute; then the",
        "share of codes of so many bits that differ from float64 rounded to the same codes. `quant/tables.py` says",
        "what the arguments are: random rows for the codes, all values for the errors.",
        "",
        f"    {command}",
    ]
    for title, rows in tables.items():
        lines += ["", f"## {title}", "", _line(_HEADER), _line(["---"] * len(_HEADER))]
        lines += [_line(_cells(row)) for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: TableRow) -> list[str]:
    errors = [f"{100 * x:.3f} %" for x in (row.worst_error, row.rms_error)]
    return [str(row.index_bits), f"{row.table_bits:,}", *errors, *(f"{100 * x:.2f} %" for x in row.disagreement)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
