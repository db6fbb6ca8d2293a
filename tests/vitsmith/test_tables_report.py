"""The page of the tables' widths."""

from quant.tables import TableRow
from vitsmith.tables import tables_markdown


def test_page():
    row = TableRow(index_bits=6, table_bits=1024, worst_error=0.5, rms_error=0.125, disagreement=(0.1, 0.02, 0.0, 1.0))
    lines = tables_markdown({"exp": [row], "more": [row, row]}, command="vitsmith tables").splitlines()
    assert "    vitsmith tables" in lines and lines[-1] == lines[-2]
    assert lines[-1] == "| 6 | 1,024 | 50.000 % | 12.500 % | 10.00 % | 2.00 % | 0.00 % | 100.00 % |"
    assert lines.index("## exp") < lines.index("## more")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
