"""Find a job's processes by facts of the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial

from oar_lxc.errors import TooLateError
from oar_lxc.linux.examination import examine
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import ancestry, ids_of, owner, pids, read_proc
from oar_lxc.linux.process import threads as threads_of
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.namespaces import UserNamespaces
from oar_lxc.root.ownership import Whose

AT_MOST = 10_000  # processes of a job to find before they are killed
AT_ONCE = 1000  # processes that one child examines while their handles are open


def job_processes(
    job: Belongings,
    handles: Handles | None = None,
    others: set[int] | None = None,
    unseen: set[int] | None = None,
) -> set[int]:
    """Return the processes that belong to a job and must die with it.

    These are:

    - all processes in the cgroups to remove;
    - the user's processes in OAR's cgroup of the job (OAR's hooks there belong to other users);
    - all processes anywhere that have a user id or group id of the job's range, or could take one
      through their user namespace.

    Zombies and the kernel's own processes do not count. This reads the cgroup of each process, and
    not the processes of each cgroup, as a user can make very many cgroups.

    The reads here never block. A child does the reads that may block
    (:mod:`oar_lxc.linux.examination`), and only for processes of the user and of root, as other
    users cannot enter a namespace of the user.

    Args:
        job: what belongs to the job.
        handles: gets handles of the processes found, opened before they are examined. The search
            then ends after :data:`AT_MOST` processes, as they can be killed before the next one.
        others: gets the other processes of the user, also under the user's other ranges.
        unseen: gets the processes that could not be examined and may be the job's.

    Raises:
        TooLateError: the deadline of ``job`` has passed.
    """
    whose = job.whose
    ours, oars = job.cgroups.ours(), job.cgroups.oars()
    found: set[int] = set()
    unknown: set[int] = set()
    hooks = ancestry()
    namespaces = UserNamespaces(whose)
    waiting: dict[int, bool] = {}  # processes for the child; whether they are the user's

    def pass_over(pid: int, own: bool) -> None:
        if own and others is not None:
            others.add(pid)
        if handles and pid not in unknown:
            handles.drop(pid)

    def look_at_waiting() -> None:
        look = partial(_can_take, namespaces=namespaces)
        for pid, can in examine(list(waiting), look, job.deadline):
            if can:
                found.add(pid)
                continue
            if can is None and unseen is not None:
                unseen.add(pid)
            pass_over(pid, waiting[pid])
        waiting.clear()

    for pid in pids():
        if handles and len(found) >= AT_MOST:
            break
        if job.deadline.passed:
            raise TooLateError("the time was over before all processes of this node were seen")
        threads = threads_of(pid)  # 0 for most processes, as they are the kernel's own
        if not threads or pid in hooks:
            continue
        if handles:
            handles.hold(pid)
        try:
            where = _cgroups_of(pid, threads)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                unknown.add(pid)
            where = ""
        ids = ids_of(f"/proc/{pid}/status")
        who = int(ids[0]) if ids else -1
        own = whose.is_users(who)
        can = _by_map(pid, namespaces)
        if (
            _is_below(where, ours)
            or ((own or 0 <= who == whose.uid) and _is_below(where, oars))
            or whose.has_jobs(ids)
            or can
            or (own and threads > 1 and _has_thread(pid, whose))
        ):
            found.add(pid)
        elif can is None and (who == 0 or any(whose.is_users(int(x)) for x in ids[:4])):
            waiting[pid] = own
            if len(waiting) == AT_ONCE:
                look_at_waiting()
        else:
            pass_over(pid, own)
    look_at_waiting()
    if unknown:
        found |= (job.cgroups.processes() & unknown) - hooks
    return found


def _by_map(pid: int, namespaces: UserNamespaces) -> bool | None:
    with suppress(OSError):
        return namespaces.by_map(pid)
    return False


def _can_take(pid: int, namespaces: UserNamespaces) -> str:
    with suppress(OSError):
        return "1" if namespaces.is_jobs(pid) else ""
    return ""


def _has_thread(pid: int, whose: Whose) -> bool:
    """Whether a thread of a process has ids of a job; to the kernel, each thread has its own."""
    with suppress(OSError):
        tasks = os.listdir(f"/proc/{pid}/task")
        return any(whose.has_jobs(ids_of(f"/proc/{pid}/task/{task}/status")) for task in tasks)
    return False


def _cgroups_of(pid: int, threads: int) -> str:
    """Return the text of /proc about a process's cgroups; its threads may be in different ones."""
    if threads == 1:
        return os.fsdecode(read_proc(f"/proc/{pid}/cgroup"))
    texts = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append(read_proc(f"/proc/{pid}/task/{task}/cgroup"))
    return os.fsdecode(b"\n".join(texts))


def _is_below(text: str, roots: Collection[str]) -> bool:
    """Whether a cgroup in a text of /proc is at or below one of several roots."""
    near = [root for root in roots if root in text]  # empty for most texts
    if not near:
        return False
    paths = [line.split(":", 2)[2] for line in text.split("\n") if line.count(":") > 1]
    return any(path == root or path.startswith(f"{root}/") for path in paths for root in near)


def is_restless(job: Belongings) -> bool:
    """Whether the job may have processes that fork and end too fast for a search."""
    return any(owner(pid) in (-1, job.whose.uid) for pid in job.cgroups.freezable())
