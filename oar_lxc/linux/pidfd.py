"""Kill processes by handle (pidfd_open(2)), not by number, and wait until they are dead."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Collection
from contextlib import suppress

from oar_lxc.linux.deadline import Deadline

SHARE = 0.75  # the part of the files that a process may still open that may be handles


class Handles:
    """Handles of processes, with which they are killed.

    A number may belong to another process by the time it is used; a handle always means the same
    process. So open the handle first, then read facts of the number: they hold for the handle.

    A user can have more processes than this one may have open files. So a part of these is left
    for other uses, such as reading those facts.
    """

    def __init__(self) -> None:
        free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd"))
        self._most = int(free * SHARE)
        self._open: dict[int, int] = {}
        self._poll = select.poll()
        self._dying: set[int] = set()

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *error: object) -> None:
        for pid in list(self._open):
            self.drop(pid)

    def hold(self, pid: int) -> None:
        """Open a process's handle, unless there are too many; the end of the block closes it."""
        if pid not in self._open and len(self._open) < self._most:
            with suppress(OSError):  # it is gone, or too many files are open: the next round's
                self._open[pid] = os.pidfd_open(pid)

    def drop(self, pid: int) -> None:
        """Close a process's handle, if it is open."""
        if (handle := self._open.pop(pid, None)) is not None:
            os.close(handle)

    def kill(self, pids: Collection[int]) -> None:
        """Send SIGKILL to the processes that have open handles."""
        self.signal(pids, signal.SIGKILL)
        for handle in [self._open[pid] for pid in pids if pid in self._open]:
            self._poll.register(handle, select.POLLIN)  # once is enough, twice no error
            self._dying.add(handle)

    def signal(self, pids: Collection[int], number: signal.Signals) -> None:
        """Send a signal to the processes that have open handles."""
        for handle in [self._open[pid] for pid in pids if pid in self._open]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)

    def wait(self, end: Deadline) -> None:
        """Wait until all killed processes are dead, or the time is over; zombies are dead."""
        while self._dying and not end.passed:
            for handle, _ in self._poll.poll(end.left() * 1000):
                self._poll.unregister(handle)
                self._dying.remove(handle)
