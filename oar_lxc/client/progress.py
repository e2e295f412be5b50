"""Tell how far a launch is: a live table on a terminal, a line for each event elsewhere.

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

from oar_lxc.model import wire
from oar_lxc.model.spec import RUNNING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

# What a container is after an event. The words are those of the table.
STATES: dict[type[wire.OfContainer], str] = {
    wire.Planned: "starting",
    wire.Started: "started",
    wire.Reached: "booted",
    wire.Provisioned: "provisioned",
    wire.Ready: "ready",
    wire.Failed: "failed",
}
_ROWS_ELSEWHERE = 4  # lines of the terminal that are not rows of the table


@dataclass
class _Row:
    container: str
    node: str
    state: str
    since: float  # when the launch of it began
    until: float | None = None  # when it came to an end

    def seconds(self, now: float) -> float:
        return (now if self.until is None else self.until) - self.since


class Progress:
    """What a :class:`~oar_lxc.client.session.Session` gets as ``on_progress``, to show to people.

    On a terminal the table stands until all containers are ready or have failed, and is taken away
    then. What happens later, such as memory that is full, is a line in any case.

    Args:
        stream: where it is shown; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._rows: dict[str, _Row] = {}
        # The event after which a container is waited for no more.
        self._last: type[wire.OfContainer] = wire.Ready
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the table away, where the launch did not come to its end."""
        self._stop()

    def __call__(self, node: str, event: wire.Event) -> None:
        """Take an event of a session."""
        if isinstance(event, wire.Planned):
            self._plan(node, event)
        elif self._live and isinstance(event, wire.OfContainer) and type(event) in STATES:
            self._follow(event)
        elif line := describe(node, event):
            print(line, file=self._stream, flush=True)

    def _plan(self, node: str, event: wire.Planned) -> None:
        if not self._terminal:
            return
        name = event.container
        self._rows[name] = _Row(name, node, STATES[wire.Planned], time.monotonic())
        self._last = wire.Started if event.wait == RUNNING else wire.Ready
        if self._live is None:
            self._live = self._start()

    def _follow(self, event: wire.OfContainer) -> None:
        row = self._rows[event.container]
        row.state = STATES[type(event)]
        if isinstance(event, self._last | wire.Ready | wire.Failed):
            row.until = time.monotonic()
        if all(row.until is not None for row in self._rows.values()):
            self._stop()

    def _start(self) -> Live:
        from rich.console import Console  # takes 0.1 s, which only a terminal is worth
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
            rows: how many containers it may name: those first that are waited for.
        """
        from rich.table import Table

        now = time.monotonic()
        # A copy: the table is drawn by a thread of its own.
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


def describe(node: str, event: wire.Event) -> str:
    """Return an event as a line for people; empty where it tells nothing that they wait for."""
    match event:
        case wire.Started() | wire.Provisioned() | wire.Ready() | wire.Stopped():
            return f"{event.container} on {node}: {event.kind}"
        case wire.OutOfMemory(killed=killed):
            what = "1 process was" if killed == 1 else f"{killed} processes were"
            return f"{event.container} on {node}: its memory was full, {what} killed"
    return ""
