"""Find what holds a killed process that does not die, and end it.

A tracer can ask that a killed process stops once more (PTRACE_O_TRACEEXIT). And SIGKILL does not
end a wait for a file system in user space that works on a request. The tracer or the file system
may belong to the same user, in another job and under other ids. Then the tracer is killed, or the
file system's connection is aborted, on which the kernel ends the wait. And the first process of a
PID namespace waits until the zombies in it are collected, perhaps by a process outside of it.

The file system may also be the node's own lxcfs, from which all containers read. If it does not
answer, it is useless to all; it is killed, and systemd starts it again.
"""

from __future__ import annotations

import os
import select
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from oar_lxc.errors import TooLateError
from oar_lxc.linux.bounded import ANSWER, in_child
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.examination import examine
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.linux.process import (
    ancestry,
    is_first,
    is_zombie,
    owner,
    parent,
    pids,
    state,
    status_words,
)
from oar_lxc.root.idmapped import mounted_nowhere
from oar_lxc.root.namespaces import UserNamespaces, pid_namespaces
from oar_lxc.root.ownership import Whose

LXCFS = "fuse.lxcfs"  # the type of lxcfs's file system
STACK_PATIENCE = 3.0  # seconds to examine all stuck processes
PROBE = "proc/uptime"  # a file of lxcfs that depends on nothing else
CONNECTIONS = "fusectl"  # the file system with a directory for each connection (fuse(4))


def tracers(stuck: Collection[int], whose: Whose) -> set[int]:
    """Return the user's processes that trace stuck ones, and those that trace these tracers.

    Args:
        stuck: the processes that do not die.
        whose: the user's ids.
    """
    namespaces = UserNamespaces(whose)
    found: set[int] = set()
    traced = set(stuck)
    while traced:
        new = {tracer for pid in traced for tracer in _tracers_of(pid)} - found
        traced = _users(new, whose, namespaces)
        found |= traced
    return found - ancestry()


def parents_of_zombies(stuck: Collection[int], whose: Whose) -> set[int]:
    """Return the user's processes that do not collect zombies for which a stuck process waits.

    The first process of a PID namespace dies only after all others in it are gone. The parent of
    one of them may be outside of it, and never collect its zombie.

    Args:
        stuck: the processes that do not die.
        whose: the user's ids.
    """
    firsts = _pid_namespaces(pid for pid in stuck if is_first(pid))
    ending = {chain[0] for chain in firsts.values() if chain}
    if not ending:
        return set()
    zombies = _pid_namespaces(pid for pid in pids() if is_zombie(pid))
    found = {parent(pid) for pid, chain in zombies.items() if not ending.isdisjoint(chain)}
    return _users(found - set(stuck), whose, UserNamespaces(whose)) - ancestry()


def _pid_namespaces(processes: Iterable[int]) -> dict[int, list[str]]:
    """Return the PID namespaces of processes, innermost first; none of one that blocks a look."""
    looks = examine(sorted(processes), lambda pid: " ".join(map(str, pid_namespaces(pid))))
    return {pid: (found or "").split() for pid, found in looks}


def _users(found: Collection[int], whose: Whose, namespaces: UserNamespaces) -> set[int]:
    """Return those of some processes that are the user's, under whatever ids."""
    living = {pid for pid in found if pid > 0}
    mine = {pid for pid in living if whose.is_users(owner(pid))}
    looks = examine(sorted(living - mine), lambda x: "1" if namespaces.is_users(x) else "")
    return mine | {pid for pid, users in looks if users}


def _tracers_of(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, status_words(f"/proc/{pid}/task/{task}/status", b"TracerPid"))


def abort_waits(stuck: Collection[int], whose: Whose, *, late: bool) -> list[str]:
    """Abort the user's own file systems in user space that have a process waiting.

    The owner of a connection is the user that mounted the file system, so this never aborts one of
    another user.

    Args:
        stuck: the processes that do not die; if none waits for a file system, nothing is aborted.
        whose: the user's ids.
        late: whether they have had time to die. If so, any wait counts, as they may wait for a
            lock of a process that waits for a file system.

    Returns:
        The device numbers of the aborted file systems.
    """
    if not (any(map(_waiting_threads, stuck)) if late else _wait_for_fuse(stuck)):
        return []
    aborted = []
    with _connections() as connections:
        for connection in connections:
            with suppress(OSError):  # the connection has ended
                if whose.is_users(connection.stat().st_uid) and _has_waiting(connection):
                    (connection / "abort").write_text("1")
                    aborted.append(connection.name)
    return aborted


def dead_lxcfs(stuck: Collection[int], whose: Whose, patience: float) -> set[int]:
    """Return the processes of the node's lxcfs, if it is dead and a stuck process waits for it.

    A stuck process may also wait for another file system. So lxcfs counts as dead only if the
    kernel shows waiting requests for lxcfs and none for a file system of the user, and if lxcfs
    does not answer.

    Args:
        stuck: processes that do not die although lxcfs had time for many answers.
        whose: the user's ids.
        patience: seconds for an answer of lxcfs.
    """
    if not _wait_for_fuse(stuck):
        return set()
    found = read_mounts(kinds=[LXCFS.encode()])
    points = {mount.device.partition(":")[2]: mount.point for mount in found}
    with _connections() as connections:
        waited = {x.name: x for x in connections if _has_waiting(x)}
        with suppress(OSError):
            if any(whose.is_users(x.stat().st_uid) for x in waited.values()):
                return set()
    if all(_answers(points[name], patience) for name in points.keys() & waited.keys()):
        return set()
    here = os.readlink("/proc/self/ns/pid")
    return {pid for pid in pids() if _is_lxcfs(pid, here)} - ancestry()


@contextmanager
def _connections() -> Iterator[list[Path]]:
    """Yield a directory for each file system in user space, by its device number."""
    with ExitStack() as stack:
        found: list[Path] = []
        with suppress(OSError):  # a kernel without FUSE
            found = list(stack.enter_context(mounted_nowhere(CONNECTIONS)).iterdir())
        yield found


def _has_waiting(connection: Path) -> bool:
    with suppress(OSError, ValueError):
        return int((connection / "waiting").read_text()) > 0
    return False


def _wait_for_fuse(stuck: Collection[int]) -> bool:
    """Whether one of several processes waits for a file system in user space.

    The answer is True if the kernel does not show where threads wait, or if a process cannot be
    examined.
    """
    waiting = [pid for pid in stuck if _waiting_threads(pid)]
    looks = examine(waiting, _waits_for_fuse, Deadline.after(STACK_PATIENCE))
    try:
        return any(waits != "" for _, waits in looks)
    except TooLateError:
        return True


def _waits_for_fuse(pid: int) -> str:
    waits = any(_is_in_fuse(Path(f"/proc/{pid}/task/{x}/stack")) for x in _waiting_threads(pid))
    return "1" if waits else ""


def _waiting_threads(pid: int) -> list[str]:
    """Return the threads of a process that are in an uninterruptible wait."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [task for task in os.listdir(f"/proc/{pid}/task") if state(pid, task) == b"D"]
    return []


def _is_in_fuse(stack: Path) -> bool:
    try:
        return b"fuse" in stack.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True


def _answers(point: Path, patience: float) -> bool:
    """Whether lxcfs answers a child in time; otherwise the child waits until lxcfs ends."""

    def ask() -> None:
        with suppress(OSError):  # if the mount is gone, no process waits for lxcfs
            os.read(os.open(point / PROBE, os.O_RDONLY), 1)
        os.write(ANSWER, b"1")

    with in_child(ask, 0.1) as (_, reader):
        return bool(select.select([reader], [], [], patience)[0])


def _is_lxcfs(pid: int, namespace: str) -> bool:
    """Whether a process is the node's own lxcfs, not that of a machine that runs on the node."""
    with suppress(OSError):
        return (
            owner(pid) == 0
            and os.readlink(f"/proc/{pid}/ns/pid") == namespace
            and Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name == "lxcfs"
            and _has_fuse(pid)
        )
    return False


def _has_fuse(pid: int) -> bool:
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}").endswith("/fuse"):
                    return True
    return False
