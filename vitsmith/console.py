"""Progress bars and tables on the terminal; JSON for machines."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["print_json", "print_markdown", "print_table", "progress_bar"]

console = Console()
errors = Console(stderr=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar on standard error while the block runs; yields `report(done 0..1, text)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task(title, total=1.0, text="")

        def report(done: float, text: str) -> None:
            progress.update(task, completed=done, text=text)

        yield report
        progress.update(task, completed=1.0, text="")


def print_json(document: Mapping[str, object]) -> None:
    """Print a document for machines."""
    print(json.dumps(document, indent=2))


def print_markdown(text: str) -> None:
    """Print a Markdown document for people."""
    console.print(Markdown(text))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people; numbers are right-aligned."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
