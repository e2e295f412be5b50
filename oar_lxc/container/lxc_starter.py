"""Start containers with LXC in another process, which runs :mod:`oar_lxc.container.starter`."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.container.runtime import StartedContainer
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.run import Program

START_TIMEOUT = 60.0  # seconds to wait for starts under way when the launch is given up


class LxcStarter:
    """A starter that uses the program :mod:`oar_lxc.container.starter`.

    Args:
        program: the running program.
        directory: the containers' directory.
        error: makes an error from a container's name and a reason.
    """

    def __init__(
        self, program: Program, directory: Path, error: Callable[[str, str], ContainerError]
    ) -> None:
        self._program = program
        self._directory = directory
        self._error = error
        self._left: set[str] = set()

    def send(self, names: Sequence[str]) -> None:
        """Let containers be started, and do not wait for them."""
        self._left.update(names)
        lines = (f"{name} {self._directory}\n" for name in names)
        self._program.send("".join(lines).encode())

    def finished(self) -> Iterator[StartedContainer | ContainerError]:
        """Yield the outcomes that the program has written so far."""
        return self._told(wait=False)

    def rest(self) -> Iterator[StartedContainer | ContainerError]:
        """Yield all other outcomes, and an error for each container that was not tried."""
        self._program.feed(b"")
        yield from self._told(wait=True)
        self.close()
        for name in sorted(self._left):
            yield self._error(name, "it was not started: what starts containers was killed")

    def close(self) -> None:
        """Wait for the program's end; to kill it during a start leaves more to clean up."""
        with suppress(OarLxcError):
            self._program.finish(START_TIMEOUT)

    def _told(self, *, wait: bool) -> Iterator[StartedContainer | ContainerError]:
        rest = b""
        while rest or wait or select.select([self._program.stdout], [], [], 0)[0]:
            data = os.read(self._program.stdout, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")  # the rest of an unfinished line comes soon
            yield from map(self._read, lines)

    def _read(self, line: bytes) -> StartedContainer | ContainerError:
        name, seconds, pid = line.decode().split()
        self._left.discard(name)
        if int(pid) > 0:
            return StartedContainer(name, int(pid), float(seconds))
        return self._error(name, "LXC could not start it")
