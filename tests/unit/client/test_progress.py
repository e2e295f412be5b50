"""What people see of a launch: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from oar_lxc.client.progress import Progress, event_line
from oar_lxc.model import events


class Terminal:
    """A pseudo-terminal, and what is written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w")
        self._seen: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # closed
                return
            self._seen.append(data)

    @property
    def raw(self) -> str:
        """All that was written."""
        return b"".join(self._seen).decode()

    def close(self) -> str:
        """Return all that was written, without what moves the cursor."""
        self.stream.close()
        self._thread.join(10)
        os.close(self._master)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    terminal = Terminal()
    yield terminal
    terminal.stream.close()


def planned(name: str, wait: str = "ssh") -> events.Planned:
    return events.Planned(name, wait)


def started(name: str) -> events.Started:
    return events.Started(name, 0.1, 7, "0", "/")


def test_a_file_gets_a_line_for_each_event() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        for one in (planned("vm1"), started("vm1"), events.Reached("vm1", "boot")):
            progress("node1", one)
        progress("node1", events.Ready("vm1", 1.0))
        progress("node1", events.Failed("vm2", "why"))
        progress("node1", events.OutOfMemory("vm1", 2))
    assert stream.getvalue().splitlines() == [
        "vm1 on node1: started",
        "vm1 on node1: ready",
        "vm1 on node1: its memory was full, 2 processes were killed",
    ]


def test_a_terminal_gets_a_table_until_all_are_ready(terminal: Terminal) -> None:
    with Progress(terminal.stream) as progress:
        progress("node1", planned("vm1"))
        progress("node2", planned("vm2"))
        progress("node1", started("vm1"))
        table = progress.table(10)
        assert [list(column.cells) for column in table.columns][:3] == [
            ["vm1", "vm2"],
            ["node1", "node2"],
            ["started", "starting"],
        ]
        progress("node1", events.Ready("vm1", 1.0))
        progress("node2", events.Ready("vm2", 1.0))
        progress("node2", events.Stopped("vm2"))
    seen = terminal.close()
    assert "CONTAINER" in seen
    assert re.search(r"vm2 +node2 +ready", seen)
    assert seen.splitlines()[-1] == "vm2 on node2: stopped"


@pytest.mark.parametrize(
    ("wait", "last"), [("running", started("vm1")), ("boot", events.Ready("vm1", 1.0))]
)
def test_the_table_goes_with_what_is_waited_for(
    terminal: Terminal, wait: str, last: events.Event
) -> None:
    progress = Progress(terminal.stream)
    progress("node1", planned("vm1", wait))
    assert progress.table(10).row_count == 1
    progress("node1", last)
    assert progress.table(10).row_count == 0
    terminal.close()


def fail(progress: Progress) -> None:
    with progress:
        progress("node1", planned("vm1"))
        raise OSError("no such node")


def test_a_launch_that_fails_leaves_a_cursor_and_lines_again(terminal: Terminal) -> None:
    progress = Progress(terminal.stream)
    with pytest.raises(OSError, match="no such node"):
        fail(progress)
    progress("node1", events.Stopped("vm1"))
    terminal.close()
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
    assert terminal.raw.endswith("vm1 on node1: stopped\r\n")


def test_more_containers_than_lines_are_counted(terminal: Terminal) -> None:
    with Progress(terminal.stream) as progress:
        for number in range(40):
            progress("node1", planned(f"vm{number}"))
        progress("node1", events.Ready("vm0", 1.0))
        table = progress.table(3)
        cells = [list(column.cells) for column in table.columns]
    terminal.close()
    assert cells[0] == ["vm1", "vm2", "vm3", "… 37 more"]  # vm0 needs no waiting
    assert cells[2][-1] == "1 of 40 done"


def test_one_process_is_one() -> None:
    told = event_line("node1", events.OutOfMemory("vm1", 1))
    assert told == "vm1 on node1: its memory was full, 1 process was killed"
