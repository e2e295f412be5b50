"""The root-owned record of a job on this node: written before anything is made."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from oar_lxc.errors import UsageError
from oar_lxc.linux.process import start_time
from oar_lxc.linux.regular import read_regular
from oar_lxc.model.layout import JobLayout, check_job_id, check_user
from oar_lxc.model.placement import V1
from oar_lxc.root.files import write_anyway, write_durably
from oar_lxc.root.id_ranges import is_first_id
from oar_lxc.root.job_cgroups import check_oar_cgroup

LONGEST = 1 << 16  # bytes of a record
GRACE = 120.0  # seconds that OAR and its hooks get at a job's start and at its end
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Record:
    """What may exist of a job on this node.

    Attributes:
        job_id: OAR's job id.
        user: the job's user.
        boot: the boot in which it was prepared; after another boot the job is dead.
        created: seconds since the epoch.
        first_id: host id of the containers' id 0; 0 if the job has no range.
        oar_cgroup: OAR's cgroup of the job in its hierarchies, e.g. ``/oar/alice_42``; empty if
            OAR's cpuset is off.
        ended: when the first hook learned that the job has ended, in seconds since the epoch;
            0 before.
        waits: whether OAR's own clean could not run, or must not run yet. Then the next destroy
            also destroys OAR's own cgroup and files of the job.
        placement: how OAR has placed the job; see :mod:`oar_lxc.model.placement`. Records of older
            versions have none, as these knew one way.
    """

    job_id: int
    user: str
    boot: str
    created: float
    first_id: int
    oar_cgroup: str
    ended: float = 0.0
    waits: bool = False
    placement: str = V1

    def write(self, layout: JobLayout) -> None:
        """Write the record atomically; it is on disk when this returns."""
        write_durably(layout.record, self._text())

    def end(self, layout: JobLayout, now: float, waits: bool = False) -> None:
        """Note that the job has ended, so that the reaper knows it even if the hook is killed.

        Args:
            layout: the job's names.
            now: seconds since the epoch.
            waits: see the attribute.
        """
        write_anyway(layout.record, replace(self, ended=now, waits=waits)._text())

    def _text(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_record(path: Path) -> Record | None:
    """Read a record; None if it is missing, damaged, or of another job than its name says.

    A damaged record is no error, as the job's names tell its facts, too.
    """
    try:
        content = read_regular(path, owners={os.geteuid()}, most=LONGEST)
        data = json.loads(content)
        record = Record(**data)
        check_user(record.user)
        check_job_id(record.job_id)
        valid = (
            type(record.job_id) is int
            and path.name == f"{record.job_id}.json"
            and type(record.oar_cgroup) is str
            and type(record.placement) is str
            and type(record.first_id) is int
            and (record.first_id == 0 or is_first_id(record.first_id))
            and type(record.boot) is str
            and _is_flag(record.waits)
            and all(_is_time(time) for time in (record.created, record.ended))
        )
        if valid and record.oar_cgroup:
            check_oar_cgroup(record.oar_cgroup, record.job_id, record.user)
    except (OSError, ValueError, TypeError, RecursionError, UsageError):
        return None
    return record if valid else None


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def this_boot() -> str:
    """Return a unique name of this boot.

    A node that is a container shares the kernel's name of the boot with its host. So the start
    time of the node's first process is added, which differs between its own boots.
    """
    return f"{BOOT_ID.read_text().strip()}.{start_time(1)}"
