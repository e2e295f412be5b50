"""The node's log: a JSON object a line, in the form that structlog's JSONRenderer writes.

structlog itself takes 0.1 s to import, ten times what a hook of a job without containers may
cost, so the root side writes the same lines by hand.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

LOG = Path("/var/log/oar-lxc.log")


@dataclass(frozen=True)
class NodeLog:
    """A log with bound keys.

    Args:
        path: the file to append to.
        bound: keys that every line carries.
        seconds: what each step took so far, by its name.
    """

    path: Path = LOG
    bound: dict[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def bind(self, **keys: object) -> NodeLog:
        """Return a log whose lines carry these keys too."""
        return NodeLog(self.path, {**self.bound, **keys}, self.seconds)

    def write(self, event: str, level: str = "info", **keys: object) -> None:
        """Append one line; a log that cannot be written never stops the work."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
        line = json.dumps(
            {"timestamp": stamp, "level": level, "event": event, **self.bound, **keys}, default=str
        )
        with suppress(OSError):
            # Not even a FIFO in its place holds anybody up.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            flags |= os.O_NONBLOCK
            fd = os.open(self.path, flags, 0o640)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)

    @contextmanager
    def step(self, step: str) -> Iterator[None]:
        """Log how long a step took, and whether it failed."""
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            seconds = round(time.monotonic() - start, 4)
            self.write("step failed", "error", step=step, seconds=seconds, error=str(error))
            raise
        self.seconds[step] = round(time.monotonic() - start, 4)
        self.write("step done", step=step, seconds=self.seconds[step])


def say(text: str) -> None:
    """Write one line for a person, where OAR shows it."""
    _print(f"oar-lxc-node: {text}", sys.stderr, 2)


def tell(text: object) -> None:
    """Write what was asked for to standard output; that nobody reads it stops nothing."""
    _print(str(text), sys.stdout, 1)


def _print(text: str, stream: TextIO | None, number: int) -> None:
    if stream is None:  # closed since before we started
        return
    encoding = stream.encoding or "utf-8"
    try:
        # Users choose names that are no text.
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):
        # Python would try again at its end, and fail as a whole.
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, number)
            os.close(null)
