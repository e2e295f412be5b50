"""The node's log: one JSON object per line, as structlog's JSONRenderer writes it.

structlog itself takes 0.1 s to import, ten times what a hook may cost for a job without
containers. So the root side writes the same lines without it: the time, the level and the event,
then the keys that are bound, then those of the line. A value that JSON cannot hold is written as
its text.
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

from oar_lxc.errors import printable

LOG = Path("/var/log/oar-lxc.log")


@dataclass(frozen=True)
class NodeLog:
    """A log with bound keys.

    Args:
        path: the file to append to.
        bound: keys that every line carries.
        seconds: how long each finished step took, by its name.
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
            # With O_NONBLOCK, a FIFO in the log's place does not block.
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
    """Write one line for a person to standard error, which OAR shows."""
    _print(f"oar-lxc-node: {text}", sys.stderr, 2)


def print_result(text: object) -> None:
    """Write a result to standard output; a missing reader is no error."""
    _print(str(text), sys.stdout, 1)


def _print(text: str, stream: TextIO | None, number: int) -> None:
    if stream is None:  # it was closed before this process started
        return
    encoding = stream.encoding or "utf-8"
    try:
        # Names that users choose may hold characters that the encoding lacks or that control a
        # terminal.
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        print(printable(text, keep="\n"), file=stream, flush=True)
    except (OSError, ValueError):
        # Python would flush again at exit, and the process would end with an error.
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, number)
            os.close(null)
