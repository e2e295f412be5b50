"""Find the jobs that use an image on this machine, by the lower layers of their containers."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.image.store import ROOTFS
from oar_lxc.linux.examination import examine
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.linux.regular import read_regular
from oar_lxc.model.image_name import ImageName
from oar_lxc.model.layout import CONFIG_FILE, JOB_DIRECTORIES, STATE, JobLayout, check_job_id

_OVERLAY = "overlay"


@dataclass(frozen=True, order=True)
class Use:
    """A job that has a container of an image.

    Attributes:
        job_id: OAR's job id.
        user: the job's user; empty if this machine does not know the job.
    """

    job_id: int
    user: str

    def __str__(self) -> str:
        """Return the job's name in errors."""
        return f"job {self.job_id} of {self.user}" if self.user else f"job {self.job_id}"


def uses_of(
    name: ImageName, digest: str = "", state: Path = STATE, proc: Path = Path("/proc")
) -> list[Use]:
    """Return the jobs that have a container's root file system of an image in their mounts.

    A user may fake such a mount. The only effect is that the result names a job too many.

    Args:
        name: the image.
        digest: its digest, which names its unpacked archive in a job.
        state: the state directory of the node.
        proc: the directory of processes.
    """
    lower: set[str] = set()
    seen: set[str] = set()  # mount namespaces; one process of each is enough
    pids = [int(process.name) for process in proc.iterdir() if process.name.isdigit()]
    for pid, namespace in examine(pids, lambda pid: _mount_namespace(proc / str(pid))):
        # If the namespace cannot be read, the mounts still can.
        if namespace is None or namespace not in seen:
            with suppress(OSError):  # the process ended meanwhile
                lower |= _lower_directories(proc / str(pid) / "mountinfo")
                seen.add(namespace or "")
    jobs = {job for path in lower if (job := _job_of(path, name, digest, state))}
    return sorted(Use(job, _user_of(JobLayout(job, state))) for job in jobs)


def _mount_namespace(process: Path) -> str:
    with suppress(OSError):
        return str((process / "ns/mnt").stat().st_ino)
    return ""


def _job_of(lower: str, name: ImageName, digest: str, state: Path) -> int:
    """Return the job that has the image at a path; 0 if it is no job's path or another image."""
    match = re.match(rf"{re.escape(str(state))}/{JOB_DIRECTORIES}/([1-9][0-9]{{0,8}})/", lower)
    if not match:
        return 0
    layout = JobLayout(check_job_id(match[1]), state)
    places = [layout.images / name.directory / ROOTFS]
    if digest:
        places.append(_unpacked(layout, digest))
    return layout.job_id if Path(lower) in places else 0


def _unpacked(layout: JobLayout, digest: str) -> Path:
    return layout.unpacked_images / digest.partition(":")[2] / ROOTFS


def _user_of(layout: JobLayout) -> str:
    """Return a job's user, from the file that root published; empty if there is none."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(read_regular(layout.published, owners=(0,)))["user"])
    return ""


def _lower_directories(mountinfo: Path) -> set[str]:
    found: set[str] = set()
    for mount in read_mounts(mountinfo):
        for option in mount.options if mount.kind == _OVERLAY else ():
            if option.startswith("lowerdir="):
                found.update(option.removeprefix("lowerdir=").split(":"))
    return found


def containers_using(digest: str, layout: JobLayout) -> list[str]:
    """Return the names of a job's containers that are made of an unpacked archive.

    Args:
        digest: the image's digest.
        layout: the job's names.
    """
    wanted = f"{_unpacked(layout, digest)}:"
    found = []
    with suppress(OSError):
        for container in sorted(layout.containers.iterdir()):
            with suppress(OSError):
                if wanted in read_regular(container / CONFIG_FILE).decode(errors="replace"):
                    found.append(container.name)
    return found
