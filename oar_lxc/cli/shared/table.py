"""Tables on standard output, for people: titles, and a line for each row, however wide."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

_WIDEST = 1 << 20


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
) -> None:
    """Print a table.

    Args:
        titles: of its columns.
        rows: as many texts each.
        right: titles of columns of numbers.
    """
    from rich.console import Console  # takes 0.1 s, which only a table is worth
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # not markup, whatever is in it
    # Of what is wider than a console, rich cuts cells and drops columns.
    Console(width=_WIDEST, soft_wrap=True, highlight=False).print(table)
