"""How OAR places a job on this node, and where the job's cgroups are then.

Each way has a word in :mod:`oar_lxc.model.placement`. Prepare finds it out when the site's job
resource manager has done its work, and the job's record keeps it. The reaper takes the absence of
OAR's cgroup for the proof of a job's death only in the way that the record names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.mounts import read_mounts
from oar_lxc.model.placement import NONE, NOT_KNOWN, SYSTEMD, V1, slice_pattern

CONTROLLERS = frozenset(
    {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"}
    | {"net_cls", "net_prio", "perf_event", "pids", "rdma"}
)
OAR = "oar"  # what OAR's cgroups and slices are called where its configuration says nothing else
ONLY_OAR = "only OAR knows if it lives"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        path: where it is mounted.
        names: its controllers, or ``name=…``; empty for the unified hierarchy.
        unified: whether it is of version 2.
        root: the cgroup that is mounted there.
    """

    path: Path
    names: tuple[str, ...]
    unified: bool
    root: str = "/"


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Hierarchy]:
    """Return the hierarchies mounted here, each once."""
    found: dict[str, Hierarchy] = {}
    for mount in read_mounts(mountinfo, kinds=(b"cgroup", b"cgroup2")):
        names = tuple(x for x in mount.options if x.startswith("name=") or x in CONTROLLERS)
        hierarchy = Hierarchy(mount.point, names, mount.kind == "cgroup2", mount.root)
        found.setdefault(mount.device, hierarchy)
    return list(found.values())


def detect(job_id: int, oar_cgroup: str, mounted: Collection[Hierarchy]) -> str:
    """Return the way in which OAR has placed a job on this node.

    Args:
        job_id: the job.
        oar_cgroup: OAR's cgroup of the job, as OAR calls it; empty if the cpuset is off.
        mounted: the hierarchies of this node.

    Raises:
        OarLxcError: there is nothing of the job's, or more than one way fits.
    """
    if not oar_cgroup:
        return NONE
    found = [way for way in (V1, SYSTEMD) if any(_exists(way, job_id, oar_cgroup, mounted))]
    if len(found) == 1:
        return found[0]
    slice_name = slice_pattern(oar_cgroup, job_id).rpartition("/")[2]
    both = f"both its cpuset {oar_cgroup} and its slice {slice_name}"
    neither = f"neither its cpuset {oar_cgroup} nor its slice {slice_name}"
    raise OarLxcError(
        f"this node has {both if found else neither} of job {job_id}, so it is not known how OAR "
        "places jobs here: look for errors of OAR's job resource manager, and whether it is the "
        "one for this node's version of cgroups"
    )


def looks_alive(
    way: str, job_id: int, oar_cgroup: str, mounted: Collection[Hierarchy]
) -> tuple[bool | None, str]:
    """Tell from OAR's cgroups whether a job lives.

    Args:
        way: how OAR has placed it, as its record says.
        job_id: the job.
        oar_cgroup: OAR's cgroup of the job, as OAR calls it; ``*`` stands for a user who is not
            known. Empty if the cpuset was off.
        mounted: the hierarchies of this node.

    Returns:
        True or False with the proof; None if that cannot be told, with the reason.
    """
    if not mounted:
        return None, f"no cgroup file system is mounted: {ONLY_OAR}"
    if way not in (V1, SYSTEMD, NONE, NOT_KNOWN):
        return None, f"OAR placed it as {way!r}, which this version does not know: {ONLY_OAR}"
    if way == NONE or not oar_cgroup:
        return None, f"OAR's cpuset is off: {ONLY_OAR}"
    ways = [way] if way != NOT_KNOWN else [one for one in (V1, SYSTEMD) if _oar_uses(one, mounted)]
    if not ways:
        return None, f"OAR's cpuset is off: {ONLY_OAR}"
    if unseen := [one for one in ways if not any(_holding(one, mounted))]:
        return None, f"{_NEEDS[unseen[0]]} is not mounted: {ONLY_OAR}"
    for one in ways:
        if any(_exists(one, job_id, oar_cgroup, mounted)):
            return True, f"{_name(one, job_id, oar_cgroup)} exists"
    return False, f"{' and '.join(_name(one, job_id, oar_cgroup) for one in ways)} is gone"


_NEEDS = {
    V1: "the hierarchy of cpusets of cgroup version 1",
    SYSTEMD: "cgroup version 2 with its cpusets",
}


def _name(way: str, job_id: int, oar_cgroup: str) -> str:
    if way == SYSTEMD:
        return f"OAR's slice {slice_pattern(oar_cgroup, job_id).rpartition('/')[2]}"
    return f"OAR's cgroup {oar_cgroup}"


def _holding(way: str, mounted: Collection[Hierarchy]) -> Iterator[Hierarchy]:
    """Yield the hierarchy with the cpusets of a way, if it is mounted."""
    for hierarchy in mounted:
        if way == V1 and "cpuset" in hierarchy.names:
            yield hierarchy
        if way == SYSTEMD and has(hierarchy, "cpuset"):
            yield hierarchy


def has(hierarchy: Hierarchy, controller: str) -> bool:
    """Whether a hierarchy is of version 2 and has a controller."""
    try:
        return controller in (hierarchy.path / "cgroup.controllers").read_text().split()
    except OSError:
        return False


def _oar_uses(way: str, mounted: Collection[Hierarchy]) -> bool:
    name = OAR if way == V1 else f"{OAR}.slice"
    return any((hierarchy.path / name).is_dir() for hierarchy in _holding(way, mounted))


def _exists(
    way: str, job_id: int, oar_cgroup: str, mounted: Collection[Hierarchy]
) -> Iterator[Path]:
    """Yield what OAR has of a job in the hierarchies of a way."""
    if way == SYSTEMD:
        for hierarchy in _holding(way, mounted):
            yield from hierarchy.path.glob(slice_pattern(oar_cgroup, job_id))
        return
    for hierarchy in mounted:
        if not hierarchy.unified:
            yield from hierarchy.path.glob(oar_cgroup.lstrip("/"))


def is_in_units(way: str, mounted: Collection[Hierarchy]) -> bool:
    """Whether a job's cgroups are systemd's to delegate, as they are of version 2."""
    return way == SYSTEMD or (bool(mounted) and all(h.unified for h in mounted))
