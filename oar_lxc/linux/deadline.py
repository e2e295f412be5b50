"""The moment by which something must be over: one value for all who wait."""

from __future__ import annotations

import time

LEAST = 0.1  # seconds that a step gets, although it is late


class Deadline:
    """A moment by which something must be over, on a clock that nobody sets.

    Args:
        at: the moment, as of :func:`time.monotonic`; by default, it never comes.
    """

    __slots__ = ("_at",)

    def __init__(self, at: float = float("inf")) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the moment that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._at

    def left(self) -> float:
        """Return the seconds until the moment; 0 once it has come, infinity if it never does."""
        return max(0.0, self._at - time.monotonic())

    def timeout(self) -> float:
        """Return the seconds for a step that is tried even if it is late: at least 0.1."""
        return max(LEAST, self.left())

    def part(self, share: float) -> Deadline:
        """Return the moment at which a share of the time that is left will be over.

        Args:
            share: from 0, for now, to 1, for this moment.
        """
        return Deadline.after(self.left() * share)

    def within(self, seconds: float) -> Deadline:
        """Return the moment that many seconds from now, or this one if it comes first."""
        return Deadline(min(self._at, time.monotonic() + seconds))


NEVER = Deadline()
