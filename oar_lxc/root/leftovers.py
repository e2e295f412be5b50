"""Find what is left of a job on this node, from the kernel and the disk, never from a record."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from oar_lxc.errors import OarLxcError, TooLateError, printable
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import bridge, idmapped, packetfilter
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.kill import keep_waiting
from oar_lxc.root.litter import Litter
from oar_lxc.root.oar_files import kept_key, oar_files
from oar_lxc.root.placement import hierarchies
from oar_lxc.root.processes import job_processes
from oar_lxc.root.trash import trash_of

NOT_KNOWN = ("unknown", "holders", "litter", "busy")  # fields that have reasons, not names
UNSEEN = "unknown, as no cgroup file system is mounted"

NFT_TIMEOUT = 5.0  # seconds; it takes milliseconds


@dataclass(frozen=True)
class Running:
    """The result of the search for a job's processes, which takes longest.

    Attributes:
        processes: ids of processes.
        unknown: why there may be more; empty if there are no more.
        holders: why another process of the user may be able to take ids of the job; empty if none.
    """

    processes: Collection[int]
    unknown: str = ""
    holders: str = ""

    @classmethod
    def of(cls, job: Belongings) -> Running:
        """Search for the processes of a job."""
        try:
            unseen: set[int] = set()
            found = job_processes(job, unseen=unseen)
            return cls(found, holders=keep_waiting(unseen))
        except (OSError, TooLateError) as error:
            return cls((), f"its processes: {error}")


@dataclass(frozen=True)
class Leftovers:
    """All that still exists of a job; empty lists mean that nothing does.

    Attributes:
        processes: ids of processes in its cgroups, or that have or could take ids of its range.
        cgroups: paths of cgroups, and names of systemd's units that have them.
        mounts: mount points in the node's own mount namespace. Those in other namespaces do not
            count, as users can mount anything there. The kernel detaches the copies of the job's
            mounts there when the directory is removed.
        links: names of network devices.
        files: paths of files and directories. They include OAR's own files of the job if OAR left
            them, and files of the job's ids in the directories that all users share.
        ipc: SysV IPC of its ids, kind and number.
        rules: elements of the packet filter.
        unknown: why a search was incomplete, so that more may be left.
        holders: why a process of the user, in another job or in none, may still be able to take
            ids of this one. That alone is no failure, as a user can always have processes that
            cannot be looked at, and the ids stay the user's.
        litter: why the search in the directories that all users share was incomplete. That alone
            is no failure, as any user can put more files there than a hook has time for.
        busy: why links are left that nothing uses any more. That alone is no failure, as any user
            can keep the kernel busy longer than a hook has time.
    """

    processes: list[int] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ipc: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether it makes a hook fail, so that OAR gives the node to no other job."""
        links = [] if self.busy else self.links
        return bool(replace(self, holders=[], litter=[], busy=[], links=links))

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    @classmethod
    def union(cls, parts: Iterable[Leftovers]) -> Leftovers:
        """Return all that any of several leftovers has."""
        found: dict[str, set[Any]] = {}
        for part in parts:
            for kind, names in asdict(part).items():
                found.setdefault(kind, set()).update(names)
        return cls(**{kind: sorted(names) for kind, names in found.items()})

    def __str__(self) -> str:
        parts = [
            f"{len(found)} {kind} ({', '.join(map(str, found[:5]))}{', …' if found[5:] else ''})"
            for kind, found in asdict(self).items()
            if found and kind not in NOT_KNOWN
        ]
        parts += [f"not known: {why}" for why in (*self.unknown, *self.holders, *self.litter)]
        parts += self.busy
        return printable("; ".join(parts)) or "nothing"


def find_leftovers(
    job: Belongings,
    *,
    inert: bool = True,
    running: Running | None = None,
    litter: Litter | None = None,
    rules: list[str] | None = None,
    holders: Collection[str] = (),
) -> Leftovers:
    """Search for everything that a job may have on this node.

    Args:
        job: what belongs to the job.
        inert: whether the record and the trash count, too.
        running: the result of an earlier search for its processes, if any.
        litter: the result of an earlier search in the shared directories, if any.
        rules: the result of an earlier search in the packet filter, if any.
        holders: why an earlier search for processes that may take its ids was incomplete.
    """
    layout, cgroups, whose = job.layout, job.cgroups, job.whose
    paths = [layout.directory, *([layout.record, *trash_of(layout)] if inert else [])]
    if key := kept_key(layout.job_id, cgroups.user, cgroups.oar_cgroup):
        paths.append(key)
    if cgroups.whole:
        paths += oar_files(layout.job_id, cgroups.user)
    if running is None:
        running = Running.of(job)
    if litter is None:
        litter = Litter(whose, job.deadline)
        with suppress(OSError, OarLxcError):  # litter.unknown tells the error
            litter.look()
    return Leftovers(
        processes=sorted(running.processes),
        cgroups=_cgroups(cgroups) if hierarchies() else [UNSEEN],
        mounts=[str(point) for point in idmapped.mounts_under(layout.directory)],
        links=bridge.job_links(layout),
        files=[
            *(str(path) for path in paths if os.path.lexists(path)),
            *([] if litter.unknown else litter.files),
        ],
        ipc=litter.ipc,
        rules=_rules(layout) if rules is None else rules,
        unknown=[running.unknown] if running.unknown else [],
        holders=list({why: 0 for why in (running.holders, *holders) if why}),
        litter=[_seen(litter)] if litter.unknown else [],
    )


def _cgroups(cgroups: JobCgroups) -> list[str]:
    return [*map(str, cgroups.roots()), *cgroups.units_left()]


def _seen(litter: Litter) -> str:
    if not litter.files:
        return litter.unknown
    return f"{litter.unknown}; {len(litter.files)} of them were seen, such as {litter.files[0]}"


def _rules(layout: JobLayout) -> list[str]:
    try:
        return packetfilter.elements(layout, NFT_TIMEOUT)
    except OarLxcError as error:
        return [f"unknown, as the packet filter cannot be read: {error}"]
