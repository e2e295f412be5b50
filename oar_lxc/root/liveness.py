"""Find jobs that are dead but not gone, with the proof, or the reason why there is none."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.model.layout import JOB_DIRECTORIES, MAX_JOB_ID, RECORDS, STATE, JobLayout
from oar_lxc.model.placement import NOT_KNOWN, OWN_SLICE, SERVICES, slice_pattern
from oar_lxc.root import packetfilter
from oar_lxc.root.account import find_name, private_owner
from oar_lxc.root.bridge import NET
from oar_lxc.root.job_cgroups import OWN
from oar_lxc.root.leftovers import NFT_TIMEOUT
from oar_lxc.root.placement import hierarchies, looks_alive
from oar_lxc.root.record import GRACE, Record, read_record, this_boot


@dataclass(frozen=True)
class Finding:
    """The reaper's verdict on one job.

    Attributes:
        job_id: the job.
        user: its user; empty if unknown.
        dead: whether the job is certainly dead.
        why: the proof, or the reason why there is none.
    """

    job_id: int
    user: str
    dead: bool
    why: str


@dataclass(frozen=True)
class Judge:
    """Judges jobs; a job that is not certainly dead counts as living.

    Args:
        state: the node's state directory.
        grace: seconds that OAR and its hooks get before the reaper acts.
        ended: jobs that have ended, as OAR says.

    Attributes:
        unknown: why there may be jobs on this node that were not found.
    """

    state: Path = STATE
    grace: float = GRACE
    ended: Collection[int] = ()
    unknown: list[str] = field(default_factory=list)

    def find_jobs(self) -> list[Finding]:
        """Judge each job that has a record or anything else on this node."""
        users = dict.fromkeys(_job_ids(self.state), "")
        try:
            users.update(dict.fromkeys(packetfilter.jobs(NFT_TIMEOUT), ""))
        except OarLxcError as error:
            self.unknown.append(f"the packet filter cannot be read: {error}")
        users.update(_jobs_of_cgroups())
        return [
            self._judge(JobLayout(job, self.state), user) for job, user in sorted(users.items())
        ]

    def _judge(self, layout: JobLayout, user: str) -> Finding:
        record = read_record(layout.record)
        user = record.user if record else user or _owner(layout)
        dead, why = self._verdict(layout, user, record)
        return Finding(layout.job_id, user, dead, why if record else f"no record; {why}")

    def _verdict(self, layout: JobLayout, user: str, record: Record | None) -> tuple[bool, str]:
        if record and record.boot != this_boot():
            return True, "the node was booted since it was prepared"
        age = _since(record.created) if record else _age(layout)
        if age < self.grace:
            return False, f"prepared {age:.0f} s ago: it may be starting"
        if layout.job_id in self.ended:
            return True, "OAR says that it has ended"
        if record and record.ended:
            since = _since(record.ended)
            told = f"a hook was told {since:.0f} s ago that it has ended"
            return (True, told) if since >= self.grace else (False, f"{told}, and may be at work")
        way, oar_cgroup = NOT_KNOWN, f"/oar/{user or '*'}_{layout.job_id}"
        if record:
            way, oar_cgroup = record.placement, record.oar_cgroup
        alive, why = looks_alive(way, layout.job_id, oar_cgroup, hierarchies())
        return alive is False, why


def _job_ids(state: Path) -> Iterator[int]:
    patterns = (
        (state / RECORDS, r"([0-9]{1,10})\.json"),
        (state / JOB_DIRECTORIES, r"([0-9]{1,10})"),
        (NET, r"ol[buv]([0-9]{1,10})"),
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
        if hierarchy.unified:
            for parent in (OWN_SLICE, slice_pattern("", "*")):
                for path in hierarchy.path.glob(f"{parent}/{SERVICES}"):
                    match = re.fullmatch(r"oar-lxc-([0-9]{1,10})\.service", path.name)
                    if match and 1 <= int(match[1]) <= MAX_JOB_ID:
                        yield int(match[1]), ""


def _owner(layout: JobLayout) -> str:
    """Return the job's user: the owner that root gave to the job's private directory."""
    return find_name(private_owner(layout)) if os.path.lexists(layout.private) else ""


def _since(then: float) -> float:
    """Return the seconds since a time, or until it if the clock was set back."""
    return abs(time.time() - then)


def _age(layout: JobLayout) -> float:
    """Return the seconds since an entry of the job's directory was last made or removed."""
    try:
        return _since(layout.directory.lstat().st_mtime)
    except OSError:
        return float("inf")
