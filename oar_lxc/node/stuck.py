"""Why a process that was killed does not die: its user has something that holds it, elsewhere.

SIGKILL stops a process once more whose tracer asked for that (PTRACE_O_TRACEEXIT), and does not
end a wait for a file system in user space that has a request. Both may be the user's own, in
another of their jobs on the node, and are theirs to lose. Or it is the node's own lxcfs, which all
containers read from: one that does not answer is of use to none, and systemd starts it anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from oar_lxc.node.mountinfo import read_mounts
from oar_lxc.node.processes import ancestry, is_waiting, owner, pids, status_of
from oar_lxc.node.ranges import COUNT

LXCFS = "fuse.lxcfs"  # the type of its file system


def tracers(stuck: Collection[int], uid: int, first_id: int) -> set[int]:
    """Return the user's own processes that trace others.

    Args:
        stuck: the processes that do not die.
        uid: the user.
        first_id: first id of the job's range; 0 where it had none.
    """
    found = set()
    for pid in stuck:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found.add(status_of(f"/proc/{pid}/task/{task}/status", b"TracerPid:"))
    return {x for x in found if x > 0 and _is_of(owner(x), uid, first_id)} - ancestry()


def fuse_servers(stuck: Collection[int], uid: int, first_id: int) -> set[int]:
    """Return the user's own processes that serve a file system; arguments as above."""
    if not any(_sees_fuse(pid) for pid in stuck):
        return set()
    found = {pid for pid in pids() if _is_of(owner(pid), uid, first_id) and _has_fuse(pid)}
    return found - ancestry()


def dead_lxcfs(stuck: Collection[int]) -> set[int]:
    """Return the node's own lxcfs, where a process that does not die waits for it.

    Args:
        stuck: processes that do not die although lxcfs had time for many answers.
    """
    if not any(_waits_for_lxcfs(pid) for pid in stuck):
        return set()
    here = os.readlink("/proc/self/ns/pid")
    return {pid for pid in pids() if _is_lxcfs(pid, here)} - ancestry()


def _waits_for_lxcfs(pid: int) -> bool:
    with suppress(OSError):
        if any(x.kind == LXCFS for x in read_mounts(Path(f"/proc/{pid}/mountinfo"))):
            tasks = os.listdir(f"/proc/{pid}/task")
            return any(is_waiting(Path(f"/proc/{pid}/task/{task}/stat")) for task in tasks)
    return False


def _is_lxcfs(pid: int, namespace: str) -> bool:
    """Whether a process is lxcfs of this node, and not of a machine that runs on it."""
    with suppress(OSError):
        return (
            owner(pid) == 0
            and os.readlink(f"/proc/{pid}/ns/pid") == namespace
            and Path(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")).name == "lxcfs"
            and _has_fuse(pid)
        )
    return False


def _sees_fuse(pid: int) -> bool:
    with suppress(OSError):
        return any(x.kind.startswith("fuse") for x in read_mounts(Path(f"/proc/{pid}/mountinfo")))
    return False


def _has_fuse(pid: int) -> bool:
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}").endswith("/fuse"):
                    return True
    return False


def _is_of(who: int, uid: int, first_id: int) -> bool:
    in_range = first_id > 0 and first_id <= who < first_id + COUNT
    return in_range or (uid > 0 and who == uid)
