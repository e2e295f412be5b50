"""Processes of a job, found by facts of the kernel and killed by identity, not by number."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from oar_lxc.node.cgroup import JobCgroups
from oar_lxc.node.ranges import COUNT

_THREADS = 17  # num_threads in /proc/PID/stat, counted from the state (proc(5))


def job_processes(cgroups: JobCgroups, uid: int, first_id: int) -> set[int]:
    """Return the processes that belong to a job and must die with it.

    Those are: all in our cgroups of the job; of those in OAR's cgroup of the job, the user's (the
    hooks that OAR runs there are not); and all that run under the job's id range, wherever.
    Zombies are dead already.
    """
    found = cgroups.processes()
    found.update(pid for pid in cgroups.oar_processes() if owner(pid) == uid)
    if first_id:
        found.update(pid for pid in pids() if first_id <= owner(pid) < first_id + COUNT)
    return {pid for pid in found - _ancestry() if not is_zombie(pid)}


def kill(find: Callable[[], Collection[int]], wait: float) -> bool:
    """Send SIGKILL to processes and wait up to ``wait`` seconds for them to be dead.

    A number may belong to another process by the time it is used. A handle does not: what is
    found again while its handle is open is the process that the handle is of.

    Args:
        find: finds the processes.
        wait: seconds.

    Returns:
        Whether any were found.
    """
    handles: dict[int, int] = {}
    poll = select.poll()
    try:
        for pid in find():
            with suppress(OSError):  # it is gone, or the next round's
                handles[pid] = os.pidfd_open(pid)
        certain = handles.keys() & set(find()) if handles else set()
        for pid in certain:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handles[pid], signal.SIGKILL)
            poll.register(handles[pid], select.POLLIN)
        left = len(certain)
        end = time.monotonic() + wait
        while left and (rest := end - time.monotonic()) > 0:
            for handle, _ in poll.poll(rest * 1000):
                poll.unregister(handle)
                left -= 1
    finally:
        for handle in handles.values():
            os.close(handle)
    return bool(handles)


def pids() -> Iterator[int]:
    """Yield the ids of all processes that this node's root sees."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def owner(pid: int) -> int:
    """Return the user id a process runs under, -1 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return -1


def is_zombie(pid: int) -> bool:
    """Whether a process is dead but not yet waited for, or gone.

    One whose first thread has ended looks the same but for its other threads, which live.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = stat[stat.rfind(b")") + 2 :].split()
    return fields[0] in (b"Z", b"X") and int(fields[_THREADS]) <= 1


def _ancestry() -> set[int]:
    """Return this process and those that started it: a hook must not kill itself."""
    found = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except FileNotFoundError:
            break
        pid = int(stat[stat.rfind(b")") + 2 :].split()[1])
    return found
