"""Find jobs that are dead but not gone, and destroy what they left: at boot and by a timer."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.layout import MAX_JOB_ID, STATE, JobLayout
from oar_lxc.node.cgroup import OWN, hierarchies
from oar_lxc.node.links import NET
from oar_lxc.node.record import boot_id, read_record

GRACE = 120.0  # seconds in which a job that is being prepared has no cgroup of OAR's yet


@dataclass(frozen=True)
class Finding:
    """What the reaper thinks of one job.

    Attributes:
        job_id: the job.
        user: its user, empty where nothing tells.
        dead: whether that is certain.
        why: the proof, or what is missing for one.
    """

    job_id: int
    user: str
    dead: bool
    why: str


def find_jobs(state: Path = STATE) -> list[Finding]:
    """Judge each job that has anything on this node, by record or by what exists."""
    users = dict.fromkeys(_job_ids(state), "")
    users.update(_jobs_of_cgroups())
    return [_judge(JobLayout(job_id, state), user) for job_id, user in sorted(users.items())]


def _job_ids(state: Path) -> Iterator[int]:
    patterns = (
        (state / "records", r"([0-9]{1,10})\.json"),
        (state / "jobs", r"([0-9]{1,10})"),
        (NET, r"ol[bv]([0-9]{1,10})"),
    )
    for directory, pattern in patterns:
        for name in os.listdir(directory) if directory.is_dir() else ():
            match = re.fullmatch(pattern, name)
            if match and 1 <= int(match[1]) <= MAX_JOB_ID:
                yield int(match[1])


def _jobs_of_cgroups() -> Iterator[tuple[int, str]]:
    for hierarchy in hierarchies():
        own = hierarchy.path / OWN
        for name in os.listdir(own) if own.is_dir() else ():
            match = re.fullmatch(r"(.+)_([0-9]{1,10})", name)
            if match and 1 <= int(match[2]) <= MAX_JOB_ID:
                yield int(match[2]), match[1]


def _judge(layout: JobLayout, user: str) -> Finding:
    """Judge one job; what is not certainly dead lives."""
    record = read_record(layout.record)
    if record is None:
        return _judge_without_record(layout, user or _owner(layout))
    job_id, user = layout.job_id, record.user
    if record.boot_id != boot_id():
        return Finding(job_id, user, True, "the node was booted since it was prepared")
    if not record.oar_cgroup:
        return Finding(job_id, user, False, "OAR's cpuset is off: only OAR knows if it lives")
    return _by_cgroup(job_id, user, record.oar_cgroup, time.time() - record.created)


def _judge_without_record(layout: JobLayout, user: str) -> Finding:
    if not user:
        return Finding(layout.job_id, user, False, "no record, and nothing tells whose job it is")
    if not _oar_uses_cpusets():
        return Finding(layout.job_id, user, False, "no record, and OAR's cpuset is off")
    return _by_cgroup(layout.job_id, user, f"/oar/{user}_{layout.job_id}", _age(layout))


def _by_cgroup(job_id: int, user: str, oar_cgroup: str, age: float) -> Finding:
    if any((h.path / oar_cgroup.lstrip("/")).is_dir() for h in hierarchies()):
        return Finding(job_id, user, False, f"OAR's cgroup {oar_cgroup} exists")
    if age < GRACE:
        return Finding(job_id, user, False, f"prepared {age:.0f} s ago: it may be starting")
    return Finding(job_id, user, True, f"OAR's cgroup {oar_cgroup} is gone")


def _oar_uses_cpusets() -> bool:
    return any((h.path / "oar").is_dir() for h in hierarchies() if "cpuset" in h.names)


def _owner(layout: JobLayout) -> str:
    """Return whose the job is: the owner that root gave to the job's private directory."""
    try:
        return pwd.getpwuid(layout.private.lstat().st_uid).pw_name
    except (OSError, KeyError):
        return ""


def _age(layout: JobLayout) -> float:
    try:
        return time.time() - layout.directory.lstat().st_mtime
    except OSError:
        return GRACE
