"""Loggers: structlog's, if the running program has configured it.

Entry points configure structlog, for ``oar-lxc -v`` and for the units of the timers; so may a
user's own program. This module never loads it. It takes 0.1 s to import, which a launch would wait
for; and if nothing has configured it, it prints to standard output, which is the program's. Then a
warning goes to standard error, as with Python's own logging, and all else is dropped.

Events are constant texts. Facts are keys: those of the node's log (:mod:`oar_lxc.linux.node_log`)
where both have them, such as ``job``, ``node``, ``step``, ``seconds`` and ``error``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from oar_lxc.errors import printable


@dataclass(frozen=True)
class Logger:
    """A logger with bound keys; see :func:`get_logger`."""

    bound: dict[str, object] = field(default_factory=dict)

    def bind(self, **keys: object) -> Logger:
        """Return a logger whose events have these keys, too."""
        return Logger({**self.bound, **keys})

    def debug(self, event: str, **facts: object) -> None:
        """Log one call among many, such as a program that is run."""
        self._write("debug", event, facts)

    def info(self, event: str, **facts: object) -> None:
        """Log what is done."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Log what is not as it should be, and ends nothing."""
        self._write("warning", event, facts)

    @contextmanager
    def step(self, step: str, **facts: object) -> Iterator[None]:
        """Log that a step begins, how long it took, and whether it failed."""
        self.info("step begun", step=step, **facts)
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            seconds = round(time.monotonic() - start, 4)
            self.info("step failed", step=step, seconds=seconds, error=str(error), **facts)
            raise
        self.info("step done", step=step, seconds=round(time.monotonic() - start, 4), **facts)

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        facts = {**self.bound, **facts}
        structlog = sys.modules.get("structlog")
        if structlog and structlog.is_configured():
            getattr(structlog.get_logger(), level)(event, **facts)
        elif level == "warning":
            told = " ".join(f"{key}={value}" for key, value in facts.items())
            sys.stderr.write(f"oar-lxc: warning: {printable(f'{event}: {told}')}\n")


def get_logger(**bound: object) -> Logger:
    """Return a logger.

    Args:
        bound: keys that all its events have.
    """
    return Logger(bound)
