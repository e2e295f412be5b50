"""Who of a user's other processes has a way back to the ids of a job that has ended.

A user namespace with the job's ids lives as long as anything knows of it: an open file of it, or
of another namespace or a socket that was made inside; a dead process that nobody waited for. Its
owner enters it by that, when nobody looks any more. And a newuidmap(1) that was stopped when it
had read that the ids are the user's maps them when it goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import TooLateError
from oar_lxc.node.namespaces import UserNamespaces
from oar_lxc.node.processes import Handles, is_zombie, parent, pids
from oar_lxc.node.whose import Whose

MAPPERS = ("newuidmap", "newgidmap")


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
    found = set()
    for pid in others:
        _in_time(deadline)
        handles.hold(pid)
        if pid in parents or _maps_ids(pid, whose) or _has_handle(pid, namespaces):
            found.add(pid)
        else:
            handles.drop(pid)
    return found


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
        return any(namespaces.is_handle(pid, fd) for fd in os.listdir(f"/proc/{pid}/fd"))
    return False
