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
from oar_lxc.node.record import read_record

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
    record = read_record(layout.record)
    job_id = layout.job_id
    if record is None:
        user = user or _owner(layout)
        return _by_cgroup(job_id, user, "", _age(layout), "no readable record")
    from oar_lxc.node.record import boot_id

    if record.boot_id != boot_id():
        return Finding(job_id, record.user, True, "the node was booted since it was prepared")
    age = time.time() - record.created
    return _by_cgroup(job_id, record.user, record.oar_cgroup, age, "prepared in this boot")


def _by_cgroup(job_id: int, user: str, oar_cgroup: str, age: float, what: str) -> Finding:
    if not user:
        return Finding(job_id, user, False, f"{what}; nothing tells whose job it is")
    path = oar_cgroup or f"/oar/{user}_{job_id}"
    living = [h.path for h in hierarchies() if (h.path / path.lstrip("/")).is_dir()]
    if living:
        return Finding(job_id, user, False, f"OAR's cgroup {path} exists")
    if not oar_cgroup and what != "no readable record":
        return Finding(job_id, user, False, "OAR's cpuset is off: only OAR knows if it lives")
    if age < GRACE:
        return Finding(job_id, user, False, f"{what}, {age:.0f} s ago: it may be starting")
    if not oar_cgroup and not _oar_uses_cpusets():
        return Finding(job_id, user, False, "OAR's cpuset is off: only OAR knows if it lives")
    return Finding(job_id, user, True, f"{what}; OAR's cgroup {path} is gone")


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
