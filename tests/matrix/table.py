"""The rows' results, for people, for programs and for the documentation."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

TITLES = {"stanza": "cpuset on", "no-cpuset": "cpuset off", "hooks": "no stanza"}
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
    """Return a table for the documentation: a line for each fault, a pair for each set-up."""
    setups = list(dict.fromkeys(result.setup for result in results))
    faults = dict.fromkeys(result.fault for result in results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for name in faults:
        found = {result.setup: result for result in results if result.fault == name}
        cells = [next(iter(found.values())).text]
        for setup in setups:
            result = found.get(setup)
            cells += [result.layer, f"{result.seconds:.1f}"] if result else ["", ""]
        cells += [str(sum(len(one.left) for one in found.values()))]
        cells += [str(sum(len(one.touched) for one in found.values()))]
        failed = [f"FAILED: {one.failed}" for one in found.values() if one.failed]
        notes = [one.note for one in found.values() if one.note]
        writer.writerow([*cells, "; ".join(dict.fromkeys([*failed, *notes]))])
    titles = ["fault"]
    for setup in setups:
        titles += [f"removed by ({TITLES.get(setup, setup)})", "seconds"]
    titles += ["left", "touched", "note"]
    widths = ["30", *["13", "7"] * len(setups), "5", "7", "18"]
    head = ".. csv-table::\n   :widths: " + " ".join(widths)
    head += "\n   :header: " + ", ".join(f'"{title}"' for title in titles) + "\n\n"
    return head + "".join(f"   {line}\n" for line in text.getvalue().splitlines())
