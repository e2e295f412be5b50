"""Progress: a line when a step begins to take time, one when it is done, with seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Report:
    """Tells what is done, from several threads at once.

    Args:
        say: is given a line at a time.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Tell something, with the seconds since the beginning."""
        with self._lock:
            self._say(f"{time.monotonic() - self._start:6.1f} s  {text}")

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Tell that something begins, and how long it took."""
        self.line(f"{doing} …")
        start = time.monotonic()
        yield
        self.line(f"{doing}: done in {time.monotonic() - start:.1f} s")
