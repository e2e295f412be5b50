"""The limits of a container: its part of the job's CPUs, its memory, its processes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.linux.cgroups import read_file, walk
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob

CPUS = Path("/sys/devices/system/cpu")
PERIOD = 100_000  # microseconds; the kernel's default for cpu.cfs_quota_us


@dataclass(frozen=True)
class Limits:
    """What a container may use of its node.

    Attributes:
        cpus: numbers of its CPUs, as ``0-1,4``; empty: all CPUs of the job.
        quota: CPU time, as a number of CPUs; 0: no limit.
        memory: bytes; 0: no limit.
        swap: whether the kernel counts swap; then memory and swap together are limited, or with
            cgroup version 2 there is none.
        processes: processes and threads; 0: no limit.
    """

    cpus: str = ""
    quota: int = 0
    memory: int = 0
    swap: bool = False
    processes: int = 0


@dataclass(frozen=True)
class Share:
    """The job's share of a node, to be divided among the job's containers.

    Attributes:
        cpus: the job's CPUs; the CPUs of one core stand side by side.
        cores: how many cores OAR reserved on the node.
        in_cpuset: whether OAR confines the job to these CPUs. If not, other jobs use them, too,
            and a container gets a quota of CPU time instead of CPUs.
        threads: how many CPUs a core has.
        swap: whether the kernel counts swap.
    """

    cpus: Sequence[int]
    cores: int
    in_cpuset: bool = True
    threads: int = 1
    swap: bool = False

    @classmethod
    def of_node(cls, published: PublishedJob, cores: int) -> Share:
        """Read the job's share of this node.

        Args:
            published: what root says of this node.
            cores: how many cores OAR reserved here; 0 if not known.
        """
        allowed = _allowed(published.cgroups)
        groups = siblings(allowed)
        return cls(
            cpus=[cpu for group in groups for cpu in group],
            cores=cores or len(groups),
            in_cpuset=published.in_cpuset,
            threads=max(map(len, groups), default=1),
            swap=any(
                (Path(path) / name).exists()
                for path in published.cgroups
                for name in ("memory.memsw.limit_in_bytes", "memory.swap.max")
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
        """Return the CPUs that a container may use; empty if no cpuset confines it."""
        return limits.cpus or (write_cpus(self.cpus) if self.in_cpuset else "")

    def part(self, first: int, count: int) -> Sequence[int]:
        """Return the CPUs of ``count`` of the job's cores from ``first`` on; at least one CPU."""
        total, cores = len(self.cpus), max(self.cores, 1)
        begin = min(first * total // cores, max(total - 1, 0))
        end = (first + count) * total // cores
        return self.cpus[begin : max(end, begin + 1)]


def limit_files(limits: Limits, unified: bool = False) -> Iterator[tuple[str, str]]:
    """Yield cgroup files and their texts for some limits, in the order in which to write them.

    Args:
        limits: the limits.
        unified: whether the files are those of cgroup version 2.
    """
    if limits.cpus:
        yield "cpuset.cpus", limits.cpus
    if unified:
        yield from _files_of_version_2(limits)
        return
    if limits.quota:
        yield "cpu.cfs_period_us", str(PERIOD)
        yield "cpu.cfs_quota_us", str(limits.quota * PERIOD)
    if limits.memory:
        yield "memory.limit_in_bytes", str(limits.memory)
        if limits.swap:
            yield "memory.memsw.limit_in_bytes", str(limits.memory)
    if limits.processes:
        yield "pids.max", str(limits.processes)


def _files_of_version_2(limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.quota:
        yield "cpu.max", f"{limits.quota * PERIOD} {PERIOD}"
    if limits.memory:
        yield "memory.max", str(limits.memory)
        if limits.swap:  # version 2 cannot limit memory and swap together
            yield "memory.swap.max", "0"
    if limits.processes:
        yield "pids.max", str(limits.processes)


def siblings(cpus: Iterable[int], root: Path = CPUS) -> list[tuple[int, ...]]:
    """Group CPUs by core; sort the cores by their lowest CPU number."""
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
        ValueError: the text has another form.
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
    """Return the CPUs of the job's cpuset; if there is none, those this process may use."""
    for path in cgroups:
        for name in ("cpuset.effective_cpus", "cpuset.cpus.effective", "cpuset.cpus"):
            with suppress(OSError, ValueError):
                return read_cpus((Path(path) / name).read_text())
    return sorted(os.sched_getaffinity(0))


def oom_kills(cgroups: Iterable[str], name: str) -> int | None:
    """Return how many processes of a container were killed because its memory was full.

    cgroup version 1 counts a killed process only in the process's own cgroup: the count of a
    container's service is lost with the service's cgroup. Version 2 counts it in all cgroups above
    as well.

    Args:
        cgroups: the job's delegated cgroups, as published.
        name: the container.

    Returns:
        The number; None if the kernel has no such count.
    """
    found: list[int] = []

    def count(parent: int, cgroup: str) -> None:
        found.extend(_oom_kills(read_file(parent, f"{cgroup}/memory.oom_control")))

    for path in cgroups:
        own = Path(path) / name
        if (own / "memory.oom_control").exists():  # if not, no cgroup below has one
            walk(own, count)
        else:
            with suppress(OSError):
                found += _oom_kills((own / "memory.events").read_bytes())
    return sum(found) if found else None


def _oom_kills(text: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"^oom_kill ([0-9]+)$", text, re.MULTILINE)]
