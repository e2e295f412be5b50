"""Show the progress of a launch: a live table on a terminal, a line for each event elsewhere.

::

    with Progress() as progress, Session(spec, on_progress=progress) as session:
        ...
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from oar_lxc.model import events
from oar_lxc.model.spec import WAIT_RUNNING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

# The state of a container after an event, in the words of the table.
STATES: dict[type[events.OfContainer], str] = {
    events.Planned: "starting",
    events.Started: "started",
    events.Reached: "booted",
    events.Provisioned: "provisioned",
    events.Ready: "ready",
    events.Failed: "failed",
}
_ROWS_ELSEWHERE = 4  # lines of the terminal that are not rows of the table


@dataclass
class _Row:
    container: str
    node: str
    state: str
    since: float  # when its launch began
    until: float | None = None  # when its launch ended

    def seconds(self, now: float) -> float:
        return (now if self.until is None else self.until) - self.since


class Progress:
    """Shows the progress of a launch; give it to a ``Session`` as ``on_progress``.

    On a terminal, the table is removed when all containers are ready or have failed. Later events,
    such as full memory, are lines in any case.

    Args:
        stream: where to write; by default standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._rows: dict[str, _Row] = {}
        # The event that ends the launch of a container.
        self._last: type[events.OfContainer] = events.Ready
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the table, if the launch was interrupted."""
        self._stop()

    def __call__(self, node: str, event: events.Event) -> None:
        """Show an event of a session."""
        if isinstance(event, events.Planned):
            self._plan(node, event)
        elif self._live and isinstance(event, events.OfContainer) and type(event) in STATES:
            self._follow(event)
        elif line := event_line(node, event):
            print(line, file=self._stream, flush=True)

    def _plan(self, node: str, event: events.Planned) -> None:
        if not self._terminal:
            return
        name = event.container
        self._rows[name] = _Row(name, node, STATES[events.Planned], time.monotonic())
        self._last = events.Started if event.wait == WAIT_RUNNING else events.Ready
        if self._live is None:
            self._live = self._start()

    def _follow(self, event: events.OfContainer) -> None:
        row = self._rows[event.container]
        row.state = STATES[type(event)]
        if isinstance(event, self._last | events.Ready | events.Failed):
            row.until = time.monotonic()
        if all(row.until is not None for row in self._rows.values()):
            self._stop()

    def _start(self) -> Live:
        from rich.console import Console  # takes 0.1 s: only for a terminal
        from rich.live import Live

        console = Console(file=self._stream)
        live = Live(
            console=console,
            get_renderable=lambda: self.table(max(console.height - _ROWS_ELSEWHERE, 1)),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        return live

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._rows.clear()

    def table(self, rows: int) -> Table:
        """Return the table of containers.

        Args:
            rows: how many containers it may name; those that are not yet ready come first.
        """
        from rich.table import Table

        now = time.monotonic()
        # A copy, because another thread draws the table.
        every = sorted(self._rows.copy().values(), key=lambda row: row.until is not None)
        table = Table(box=None, pad_edge=False)
        for title in ("CONTAINER", "NODE", "STATE"):
            table.add_column(title, no_wrap=True)
        table.add_column("SECONDS", justify="right", no_wrap=True)
        for row in every[:rows]:
            table.add_row(row.container, row.node, row.state, f"{row.seconds(now):.1f}")
        if len(every) > rows:
            done = sum(row.until is not None for row in every)
            table.add_row(f"… {len(every) - rows} more", "", f"{done} of {len(every)} done", "")
        return table


def event_line(node: str, event: events.Event) -> str:
    """Return a line of text for an event; empty for an event that is not shown."""
    match event:
        case events.Started() | events.Provisioned() | events.Ready() | events.Stopped():
            return f"{event.container} on {node}: {event.kind}"
        case events.OutOfMemory(killed=killed):
            what = "1 process was" if killed == 1 else f"{killed} processes were"
            return f"{event.container} on {node}: its memory was full, {what} killed"
    return ""
