"""Print tables for people on standard output; a row is one line, whatever its width."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

_WIDEST = 1 << 20


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
) -> None:
    """Print a table.

    Args:
        titles: the titles of the columns.
        rows: a text for each column.
        right: titles of columns that are aligned to the right, such as numbers.
    """
    from rich.console import Console  # takes 0.1 s: only if there is a table
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, so that rich interprets no markup in it
    # If a table is wider than the console, rich cuts cells and drops columns.
    Console(width=_WIDEST, soft_wrap=True, highlight=False).print(table)
