"""Find a user's other processes that can still take the ids of a job that has ended.

A user namespace with the job's ids lives as long as something refers to it: an open file of it, of
a namespace or of a socket that was made inside, or a zombie. Through that, the namespace's owner
could enter it after the destroy.

A process may block its examination (:mod:`oar_lxc.linux.examination`); for such a one the answer
is not known.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from oar_lxc.errors import TooLateError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.examination import examine, sign_of_life
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import is_zombie, parent, pids
from oar_lxc.root.namespaces import UserNamespaces
from oar_lxc.root.ownership import Whose

OFTEN = 0.1  # seconds between two signs of life of the child
MOUNTS = 1000  # mounts to examine between two


def find_holders(
    others: Collection[int], whose: Whose, handles: Handles, deadline: Deadline, unseen: set[int]
) -> set[int]:
    """Return the processes of a user that can still take a job's ids, without having any.

    Args:
        others: the user's processes that are not the job's.
        whose: the job's ids.
        handles: gets handles of the processes found, opened before they are examined.
        deadline: when to give up.
        unseen: the processes that blocked an earlier examination, and are not examined again; gets
            those that block this one.

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
    look = partial(_holds, namespaces=namespaces)
    for pid, holds in examine(sorted(set(others) - found - unseen), look, deadline):
        if holds is None:
            unseen.add(pid)
        elif holds:
            found.add(pid)
    for pid in set(others) - found:
        handles.drop(pid)
    return found


def find_mounting(others: Collection[int], names: Collection[str], deadline: Deadline) -> set[int]:
    """Return the processes that see a mount of one of some namespaces where root mounts none.

    Args:
        others: the user's processes.
        names: the namespaces, as the kernel names them in links, such as ``net:[4026532000]``.
        deadline: when to give up; then the result may lack some.
    """
    look = partial(_mounts_one, names={os.fsencode(name) for name in names})
    found: set[int] = set()
    with suppress(TooLateError):
        for pid, sees in examine(sorted(others) if names else [], look, deadline):
            if sees:
                found.add(pid)
    return found


def _mounts_one(pid: int, names: Collection[bytes]) -> str:
    with suppress(OSError):
        process = Path(f"/proc/{pid}")
        if (process / "ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink():
            with (process / "mountinfo").open("rb") as table:
                for number, line in enumerate(table):
                    if line.split(b" ", 4)[3] in names:
                        return "1"
                    if number % MOUNTS == MOUNTS - 1:
                        sign_of_life()
    return ""


def _holds(pid: int, namespaces: UserNamespaces) -> str:
    return "1" if _has_handle(pid, namespaces) else ""


def _in_time(deadline: Deadline) -> bool:
    if deadline.passed:
        raise TooLateError("the time was over before all that a user's processes hold was seen")
    return True


def _is_jobs(pid: int, namespaces: UserNamespaces) -> bool:
    with suppress(OSError):
        return namespaces.is_jobs(pid)
    return False


def _has_handle(pid: int, namespaces: UserNamespaces) -> bool:
    with suppress(OSError):
        silent = Deadline.after(OFTEN)
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if namespaces.is_handle(pid, fd):
                return True
            if silent.passed:  # a namespace takes much longer than another file
                sign_of_life()
                silent = Deadline.after(OFTEN)
    return False
