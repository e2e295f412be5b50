"""What a container may use of its node: its part of the job's CPUs, memory, processes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.container.lxc_config import Limits
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob

CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Share:
    """What the job has of a node, to be divided among its containers.

    Attributes:
        cpus: the job's CPUs, siblings of one core side by side.
        cores: how many cores OAR reserved there.
        in_cpuset: whether OAR confines the job to these CPUs; where it does not, containers get
            their part of the time and not CPUs, which other jobs use as well.
        threads: CPUs of one core.
        swap: whether the kernel counts swap.
    """

    cpus: Sequence[int]
    cores: int
    in_cpuset: bool = True
    threads: int = 1
    swap: bool = False

    @classmethod
    def of_node(cls, published: PublishedJob, cores: int) -> Share:
        """Read what the job has of this node.

        Args:
            published: what the root side says of it.
            cores: how many cores OAR reserved here; 0 where that is not known.
        """
        allowed = _allowed(published.cgroups)
        groups = siblings(allowed)
        return cls(
            cpus=[cpu for group in groups for cpu in group],
            cores=cores or len(groups),
            in_cpuset=published.in_cpuset,
            threads=max(map(len, groups), default=1),
            swap=any(
                (Path(path) / "memory.memsw.limit_in_bytes").exists() for path in published.cgroups
            ),
        )

    def limits(self, planned: PlannedContainer) -> Limits:
        """Return the limits of a container."""
        cpus, quota = "", 0
        if planned.cores and self.in_cpuset:
            cpus = write_cpus(self.part(planned.first_core, planned.cores))
        elif planned.cores:
            quota = planned.cores * self.threads
        return Limits(cpus, quota, planned.memory, self.swap, planned.processes)

    def cpus_of(self, limits: Limits) -> str:
        """Return the CPUs that a container may use; empty where no cpuset confines it."""
        return limits.cpus or (write_cpus(self.cpus) if self.in_cpuset else "")

    def part(self, first: int, count: int) -> Sequence[int]:
        """Return the CPUs of some of the job's cores: as many for each, at least one."""
        total, cores = len(self.cpus), max(self.cores, 1)
        begin = min(first * total // cores, max(total - 1, 0))
        end = (first + count) * total // cores
        return self.cpus[begin : max(end, begin + 1)]


def siblings(cpus: Iterable[int], root: Path = CPUS) -> list[tuple[int, ...]]:
    """Return CPUs by core: those that are threads of one core together, by their first number."""
    cpus = sorted(cpus)
    groups: dict[tuple[int, ...], list[int]] = {}
    for cpu in cpus:
        together: Collection[int] = (cpu,)
        with suppress(OSError, ValueError):
            text = (root / f"cpu{cpu}/topology/thread_siblings_list").read_text()
            together = read_cpus(text)
        groups.setdefault(tuple(together), []).append(cpu)
    return sorted(map(tuple, groups.values()))


def read_cpus(text: str) -> list[int]:
    """Read a list of CPUs as the kernel writes it: ``0-3,8``.

    Raises:
        ValueError: it is written otherwise.
    """
    found: list[int] = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if not match:
            raise ValueError(f"{text!r} is no list of CPUs")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def write_cpus(cpus: Iterable[int]) -> str:
    """Write a list of CPUs as the kernel reads it."""
    return ",".join(map(str, sorted(cpus)))


def _allowed(cgroups: Iterable[str]) -> list[int]:
    """Return the CPUs of the job's cpuset; where there is none, those this process has."""
    for path in cgroups:
        for name in ("cpuset.effective_cpus", "cpuset.cpus"):
            with suppress(OSError, ValueError):
                return read_cpus((Path(path) / name).read_text())
    return sorted(os.sched_getaffinity(0))


def oom_kills(cgroups: Iterable[str], name: str) -> int | None:
    """Return how many processes of a container were killed as its memory was full.

    Version 1 counts them in the cgroup of the process alone: a service of the container is counted
    while its cgroup exists. Version 2 counts them in all above as well.

    Args:
        cgroups: the job's delegated cgroups, as published.
        name: the container.

    Returns:
        The number; None where the kernel tells none.
    """
    found: list[int] = []
    for path in cgroups:
        own = Path(path) / name
        if (own / "memory.oom_control").exists():  # else nothing below has one
            for where, _, _ in os.walk(own):
                found += _oom_kills(Path(where) / "memory.oom_control")
        else:
            found += _oom_kills(own / "memory.events")
    return sum(found) if found else None


def _oom_kills(file: Path) -> list[int]:
    with suppress(OSError):
        return [int(n) for n in re.findall(r"^oom_kill ([0-9]+)$", file.read_text(), re.MULTILINE)]
    return []
