"""The rows' results, for people, for programs and for the documentation."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADERS = ("fault", "set-up", "removed by", "seconds", "left", "touched", "note")


@dataclass(frozen=True)
class Result:
    """What became of one row.

    Attributes:
        fault: the fault's name.
        text: what the fault is.
        setup: the set-up.
        layer: what removed the containers.
        seconds: from the end of the job to nothing left on any node.
        left: what was left, a line each.
        touched: what changed of those that had nothing to do with it, a line each.
        failed: why the row tells nothing; empty where it does.
        note: remarks.
        row_seconds: how long the row took in all.
    """

    fault: str
    text: str
    setup: str
    layer: str = ""
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    failed: str = ""
    note: str = ""
    row_seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the fault happened and nothing was left or touched."""
        return not (self.failed or self.left or self.touched)

    def cells(self, name: str) -> list[str]:
        """Return the row of the table, named as given."""
        note = f"FAILED: {self.failed}" if self.failed else self.note
        counts = [f"{self.seconds:.1f}", str(len(self.left)), str(len(self.touched))]
        return [name, self.setup, self.layer or "-", *counts, note]


def plain(results: Sequence[Result]) -> str:
    """Return a table for a terminal."""
    rows = [list(HEADERS), *(result.cells(result.fault) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS) - 1)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def rst(results: Sequence[Result]) -> str:
    """Return a table for the documentation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for result in results:
        writer.writerow(result.cells(result.text))
    titles = ", ".join(f'"{header}"' for header in HEADERS)
    head = ".. csv-table::\n   :widths: 32 10 14 8 6 8 22\n   :header: " + titles + "\n\n"
    return head + "".join(f"   {line}\n" for line in text.getvalue().splitlines())
