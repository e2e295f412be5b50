"""What is measured, beside what it is measured against, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.timing import Spread


@dataclass(frozen=True)
class Figure:
    """One thing that was measured in several rounds.

    Attributes:
        row: the row of the benchmark that measured it.
        work: what was done.
        unit: of the values: ``s``, ``ms``, ``MB`` …
        ours: our values.
        peer: what it is measured against; empty where there is nothing.
        theirs: the peer's values, in the same run.
        target: what it should be, in words.
        note: why a peer has no values, or what else a reader should know.
    """

    row: str
    work: str
    unit: str
    ours: Spread
    peer: str = ""
    theirs: Spread | None = None
    target: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The peer's median by ours: above 1 where ours is less."""
        if self.theirs is None or not self.ours.median:
            return None
        return self.theirs.median / self.ours.median

    def to_data(self) -> dict[str, object]:
        """Return what JSON has of it."""
        return {
            "row": self.row,
            "work": self.work,
            "unit": self.unit,
            "ours": self.ours.values,
            "peer": self.peer,
            "theirs": self.theirs.values if self.theirs else [],
            "ratio": self.ratio,
            "target": self.target,
            "note": self.note,
        }


def cpu_seconds(cgroup: Path) -> float:
    """Return the processor time that all processes of a cgroup took, those that ended too."""
    return int((cgroup / "cpuacct.usage").read_text()) / 1e9


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    release = platform.release()
    return f"Linux {release}, {os.cpu_count()} CPUs ({model}), load {load:.1f} at the start"


def show(figures: list[Figure], head: str) -> None:
    """Print a table."""
    console = Console(width=150, highlight=False)
    console.print(
        f"{head}\nmedian (lowest–highest); ratio: peer / oar_lxc, above 1 where ours is less"
    )
    table = Table("row", "work", "oar_lxc", "", "peer", "peer's", "ratio", "target", box=None)
    before = ""
    for f in figures:
        table.add_row(
            f.row if f.row != before else "",
            f.work,
            str(f.ours),
            f.unit,
            f.peer,
            str(f.theirs) if f.theirs else f.note,
            f"{f.ratio:.2f}" if f.ratio else "",
            f.target,
        )
        before = f.row
    console.print(table)
