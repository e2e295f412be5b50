"""Times of one round, and tables of medians, spreads and ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SETTLE = 6.0  # seconds


@dataclass(frozen=True)
class Timing:
    """Seconds of one round.

    Attributes:
        running: from the start of the script until all containers are RUNNING.
        ready: until the sshd of all answers.
        destroyed: from the start of the destruction until all are gone.
    """

    running: float
    ready: float
    destroyed: float


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing, in seconds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({min(self.values):.3f}–{max(self.values):.3f})"


def settle() -> None:
    """Wait until files that were removed count no more: for 5 s, ext4 does not use them again.

    It looks for others then, which takes long where there were many.
    """
    time.sleep(SETTLE)


def spreads(rounds: Sequence[Timing]) -> dict[str, Spread]:
    """Return the spread of each time over the rounds."""
    names = asdict(rounds[0])
    return {name: Spread(tuple(asdict(r)[name] for r in rounds)) for name in names}
