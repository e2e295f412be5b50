"""Who of a user's other processes has a way back to the ids of a job that has ended.

A user namespace with the job's ids lives as long as anything knows of it: an open file of it, or
of another namespace or a socket that was made inside; a dead process that nobody waited for. Its
owner enters it by that, when nobody looks any more. And a newuidmap(1) that was stopped when it
had read that the ids are the user's maps them when it goes on.

What a process has open, and its memory, may be made so that whoever looks at it waits for good: a
child looks, and is given up. Who keeps it waiting has something to hide.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import TooLateError
from oar_lxc.linux.bounded import bury
from oar_lxc.root.namespaces import UserNamespaces
from oar_lxc.root.ownership import Whose
from oar_lxc.root.processes import Handles, is_zombie, parent, pids

MAPPERS = ("newuidmap", "newgidmap")
PATIENCE = 1.0  # seconds without a word of the child that looks
LEAST_PATIENCE = 0.05  # where others have kept one waiting already
FILES = 1000  # between two words of the child
_NO, _YES, _GOES_ON = b"0", b"1", b"."
_MOST = 1 << 20  # descriptors
_ANSWER = 3  # the descriptor that the child keeps


def find_holders(
    others: Collection[int], whose: Whose, handles: Handles, deadline: float
) -> set[int]:
    """Return those of a user's processes that hold a job's ids, without having any.

    Args:
        others: the user's processes that are not the job's.
        whose: the job's ids.
        handles: holds those that are found, since before they were looked at.
        deadline: monotonic time.

    Raises:
        TooLateError: the deadline has passed.
    """
    if not whose.first_id or not others:
        return set()
    namespaces = UserNamespaces(whose)
    parents = {
        parent(pid)
        for pid in pids()
        if _in_time(deadline) and is_zombie(pid) and _is_jobs(pid, namespaces)
    }
    for pid in others:
        handles.hold(pid)
    found = parents.intersection(others)
    found.update(_find(sorted(set(others) - found), whose, deadline))
    for pid in set(others) - found:
        handles.drop(pid)
    return found


def _find(waiting: Sequence[int], whose: Whose, deadline: float) -> Iterator[int]:
    """Yield those of some processes that hold a job's ids, or keep from being looked at."""
    patience = PATIENCE
    while waiting:
        done = 0
        for holds in _answers(waiting, whose, patience, deadline):
            if holds:
                yield waiting[done]
            done += 1
        if done < len(waiting):
            yield waiting[done]
            patience = max(LEAST_PATIENCE, patience / 2)
        waiting = waiting[done + 1 :]


def _answers(
    processes: Sequence[int], whose: Whose, patience: float, deadline: float
) -> Iterator[bool]:
    """Yield of each process whether it holds the job's ids, up to one that keeps us waiting."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            # It may stay for long, and would keep others' locks.
            os.dup2(writer, _ANSWER)
            os.closerange(_ANSWER + 1, _MOST)
            _look(processes, whose)
        finally:
            os._exit(0)
    os.close(writer)
    with suppress(OSError):  # it has done so itself, or is gone
        os.setpgid(child, child)
    try:
        while select.select([reader], [], [], patience)[0] and _in_time(deadline):
            words = os.read(reader, 1 << 12)
            if not words:
                return
            yield from (word == _YES[0] for word in words if word != _GOES_ON[0])
    finally:
        os.close(reader)
        # With its own child, which somebody may have stopped in a namespace of theirs: that has
        # our streams, and whoever reads these would wait for it.
        os.killpg(child, signal.SIGKILL)
        bury(child)


def _look(processes: Sequence[int], whose: Whose) -> None:
    namespaces = UserNamespaces(whose)
    for pid in processes:
        holds = _maps_ids(pid, whose) or _has_handle(pid, namespaces)
        os.write(_ANSWER, _YES if holds else _NO)


def _in_time(deadline: float) -> bool:
    if time.monotonic() > deadline:
        raise TooLateError("the time was over before all that a user's processes hold was seen")
    return True


def _is_jobs(pid: int, namespaces: UserNamespaces) -> bool:
    with suppress(OSError):
        return namespaces.is_jobs(pid)
    return False


def _maps_ids(pid: int, whose: Whose) -> bool:
    """Whether a process is a program of the system's that is about to map ids of the job."""
    with suppress(OSError, ValueError):
        process = Path(f"/proc/{pid}")
        if (process / "exe").readlink().name in MAPPERS:
            words = (process / "cmdline").read_bytes().split(b"\0")
            numbers = list(map(int, words[2:-1]))
            extents = zip(numbers[1::3], numbers[2::3], strict=False)
            return any(whose.overlaps(start, count) for start, count in extents)
    return False


def _has_handle(pid: int, namespaces: UserNamespaces) -> bool:
    with suppress(OSError):
        for number, fd in enumerate(os.listdir(f"/proc/{pid}/fd")):
            if namespaces.is_handle(pid, fd):
                return True
            if number % FILES == FILES - 1:
                os.write(_ANSWER, _GOES_ON)
    return False
