"""How far long work is, on standard error: nothing for what is done in a moment."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from oar_lxc.errors import printable

PATIENCE = 2.0  # seconds before anything is told
TERMINAL, FILE = 0.2, 10.0  # seconds between two lines
_WIDTH = 60  # of what a program says


class Meter:
    """A line that says what is done, for how long, and how much of it.

    It is told whether or not whoever works says anything meanwhile.

    Args:
        what: what is done, as in ``importing mine``.
        patience: seconds before anything is told.
        files: whether it is told to a file as well, where nobody may look at it.
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
        """Tell of some bytes of a total; 0 where that is unknown."""
        part = f" of {total / 1e6:.0f} MB" if total >= done else " MB"
        speed = done / 1e6 / max(time.monotonic() - self._start, 0.001)
        self._amount = f"{done / 1e6:.0f}{part}, {speed:.0f} MB/s"

    def add(self, number: int) -> None:
        """Tell of more bytes, of a total that is unknown."""
        self._done += number
        self.update(self._done, 0)

    def follow(self, last: Callable[[], str]) -> None:
        """Tell the last line of a program, until there are bytes to tell of.

        Args:
            last: returns all that it wrote so far; called in a thread of its own.
        """
        self._last = last

    def say(self, text: str) -> None:
        """Tell a line of its own."""
        with self._lock:
            self._clear()
            sys.stderr.write(f"oar-lxc: {text}\n")
            sys.stderr.flush()

    def _run(self) -> None:
        wait = self._patience
        while not self._end.wait(wait):
            wait = TERMINAL if self._terminal else FILE
            text = ", ".join(filter(None, (self._what_lasts(), self._amount or self._said())))
            with self._lock:
                sys.stderr.write(f"\r\033[K{text}" if self._terminal else f"{text}\n")
                sys.stderr.flush()
                self._told = True

    def _what_lasts(self) -> str:
        return f"{self._what}: {time.monotonic() - self._start:.0f} s"

    def _said(self) -> str:
        """Return the last line that a program wrote, without what a terminal would obey."""
        try:
            lines = self._last().splitlines()
        except (OSError, ValueError):  # it has ended, and what it wrote went with it
            return ""
        line = next((line for line in reversed(lines) if line.strip()), "")
        line = line.removeprefix("I: ").strip()[:_WIDTH]
        return printable(line)

    def _clear(self) -> None:
        if self._terminal and self._told:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._told = False
