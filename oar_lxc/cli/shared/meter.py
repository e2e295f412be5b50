"""Show the progress of long work on standard error; show nothing for short work."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from oar_lxc.errors import printable

PATIENCE = 2.0  # seconds before the first line
TERMINAL, FILE = 0.2, 10.0  # seconds between two lines
_WIDTH = 200  # characters of a program's line; a terminal may show fewer
_COLUMNS = 80  # of a terminal that does not tell


class Meter:
    """A line that tells what work is done, for how long, and how much of it.

    A thread writes it, even if the work reports nothing in the meantime.

    Args:
        what: the work, as in ``importing mine``.
        patience: seconds before the first line.
        files: whether to write lines also if standard error is not a terminal.
    """

    def __init__(self, what: str, patience: float = PATIENCE, *, files: bool = True) -> None:
        self._what = what
        self._patience = patience
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._tells = files or self._terminal
        self._told = False
        self._amount = ""
        self._done = 0
        self._last: Callable[[], str] = str
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        if self._tells:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._tells:
            self._thread.join()
        self._clear()

    def update(self, done: int, total: int) -> None:
        """Report how many bytes of a total are done; total 0: unknown."""
        part = f" of {total / 1e6:.0f} MB" if total >= done else " MB"
        speed = done / 1e6 / max(time.monotonic() - self._start, 0.001)
        self._amount = f"{done / 1e6:.0f}{part}, {speed:.0f} MB/s"

    def add(self, number: int) -> None:
        """Report more bytes, of an unknown total."""
        self._done += number
        self.update(self._done, 0)

    def follow(self, last: Callable[[], str]) -> None:
        """Show the last line of a program's output, until there are bytes to report.

        Args:
            last: returns the output so far; called in another thread.
        """
        self._last = last

    def say(self, text: str) -> None:
        """Write a line that stays."""
        with self._lock:
            self._clear()
            sys.stderr.write(f"oar-lxc: {text}\n")
            sys.stderr.flush()

    def answer(self, text: str) -> None:
        """Write a line of the command's own output, which is on standard output."""
        with self._lock:
            self._clear()
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def _run(self) -> None:
        wait = self._patience
        while not self._end.wait(wait):
            wait = TERMINAL if self._terminal else FILE
            text = ", ".join(filter(None, (self._what_lasts(), self._amount or self._said())))
            with self._lock:
                short = text[: _columns() - 1]  # of two rows, only one could be written over
                sys.stderr.write(f"\r\033[K{short}" if self._terminal else f"{text}\n")
                sys.stderr.flush()
                self._told = True

    def _what_lasts(self) -> str:
        return f"{self._what}: {time.monotonic() - self._start:.0f} s"

    def _said(self) -> str:
        """Return the last line of a program's output, without control characters."""
        try:
            lines = self._last().splitlines()
        except (OSError, ValueError):  # the program has ended, and its output is gone
            return ""
        line = next((line for line in reversed(lines) if line.strip()), "")
        line = line.removeprefix("I: ").strip()
        return printable(line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…")

    def _clear(self) -> None:
        if self._terminal and self._told:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._told = False


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except OSError:
        return _COLUMNS
