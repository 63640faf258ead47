"""Decides how a table is laid out, so that nothing in it is cut: a narrow terminal sees fewer columns."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_ENDLESS: Final = 10_000  # columns


def open_console() -> Console:
    """Standard output; a pipe or a file has no width."""
    console = Console()
    return console if console.is_terminal else Console(width=_ENDLESS)


def table_for(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    spare: Sequence[str] = (),
) -> Table:
    """A table that fits. spare: columns that are left out, the first one first, as long as it is too wide.

    What is left out is named below the table; what is still too wide is folded.
    """
    out = 0
    while True:
        table = _without(columns, rows, spare[:out])
        needed = Measurement.get(console, console.options.update(width=_ENDLESS), table).maximum
        if needed <= console.width or out == len(spare):
            break
        out += 1
    table.title, table.title_justify = title, "left"
    if out:
        table.caption, table.caption_justify = f"in a wider terminal: {', '.join(spare[:out])}", "left"
    return table


def _without(columns: Sequence[str], rows: Sequence[Sequence[str]], out: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    kept = [index for index, column in enumerate(columns) if column not in out]
    for index in kept:
        table.add_column(columns[index], overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    return table
