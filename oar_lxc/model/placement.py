"""The ways in which OAR places a job on a node, as records and published files name them."""

from __future__ import annotations

import re

V1 = "v1"  # OAR 2.5: a cgroup USER_JOB in hierarchies of version 1, such as the cpuset
SYSTEMD = "systemd"  # OAR 2.6 and 3: a slice of systemd, in the hierarchy of version 2
NONE = "none"  # OAR's cpuset is off: OAR makes no cgroups
NOT_KNOWN = ""  # nobody has looked
OWN_SLICE = "oar.slice/oar-lxc.slice"  # where jobs without a slice of OAR's have their services
SERVICES = "oar-lxc-*.service"


def service_of(job_id: int) -> str:
    """Return the name of the service by which systemd delegates a job's cgroup of version 2."""
    return SERVICES.replace("*", str(job_id))


def slice_pattern(oar_cgroup: str, job_id: int | str) -> str:
    """Return the pattern of the path, in a hierarchy, of systemd's slice of a job.

    ``*`` stands for the user's id. See job_resource_manager_systemd.pl of OAR 2.6.

    Args:
        oar_cgroup: what OAR calls the job's cgroup, e.g. ``/oar/alice_42``; may be empty.
        job_id: the job; ``*`` for all.
    """
    prefix = oar_cgroup.strip("/").partition("/")[0] or "oar"
    return f"{prefix}.slice/{prefix}-u*.slice/{prefix}-u*-j{job_id}.slice"


def is_in_slice(cgroups: str, oar_cgroup: str, job_id: int) -> bool:
    """Whether a process is in systemd's slice of a job.

    Args:
        cgroups: the text of the process's ``/proc/PID/cgroup``.
        oar_cgroup: what OAR calls the job's cgroup.
        job_id: the job.
    """
    path = re.escape(slice_pattern(oar_cgroup, job_id)).replace(r"\*", "[0-9]+")
    return re.search(rf"^0::(/.*)?/{path}(/|$)", cgroups, re.MULTILINE) is not None
