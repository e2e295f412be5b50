"""Report progress: a line when a step begins, and a line with its seconds when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oar_lxc.linux.logger import get_logger

_log = get_logger()


class Report:
    """Reports progress; several threads may use it at once.

    Args:
        say: called with each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._start = time.monotonic()
        self._begun: list[str] = []
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Report a line, with the seconds since the start."""
        with self._lock:
            self._say(f"{time.monotonic() - self._start:6.1f} s  {text}")

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Report that the block begins, and then how long it took."""
        self.line(f"{doing} …")
        start = time.monotonic()
        self._begun.append(doing)
        try:
            with _log.step(doing):
                yield
        finally:
            self._begun.remove(doing)
        self.line(f"{doing}: done in {time.monotonic() - start:.1f} s")

    def going_on(self) -> str:
        """Return the steps that have begun and are not done, the oldest first."""
        return ", ".join(self._begun)
