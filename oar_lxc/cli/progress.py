"""How far long work is, on standard error: nothing for what is done in a moment."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PATIENCE = 2.0  # seconds before anything is told
TERMINAL, FILE = 0.2, 10.0  # seconds between two lines


class Meter:
    """A line that says how much of something is done.

    Args:
        what: what is done, as in ``importing mine``.
        patience: seconds before anything is told.
    """

    def __init__(self, what: str, patience: float = PATIENCE) -> None:
        self._what = what
        self._start = time.monotonic()
        self._next = self._start + patience
        self._terminal = sys.stderr.isatty()
        self._told = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def update(self, done: int, total: int) -> None:
        """Tell of some bytes of a total; 0 where that is unknown."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (TERMINAL if self._terminal else FILE)
        part = f" of {total / 1e6:.0f} MB" if total >= done else " MB"
        speed = done / 1e6 / max(now - self._start, 0.001)
        text = f"{self._what}: {done / 1e6:.0f}{part}, {speed:.0f} MB/s"
        sys.stderr.write(f"\r\033[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()
        self._told = True

    def say(self, text: str) -> None:
        """Tell a line of its own."""
        self._clear()
        sys.stderr.write(f"oar-lxc: {text}\n")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._terminal and self._told:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._told = False
