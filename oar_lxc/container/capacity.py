"""How much memory a job has on this node, and whether its containers fit in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.container.limits import Share, read_cpus
from oar_lxc.errors import SpecError
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import PublishedJob

MEMINFO = Path("/proc/meminfo")
ONLINE = Path("/sys/devices/system/cpu/online")


def job_memory(published: PublishedJob, share: Share, meminfo: Path = MEMINFO) -> int:
    """Return the bytes of memory that a job has on this node; 0 if not known.

    It is the node's memory in proportion to the job's CPUs, or all of it if OAR does not confine
    jobs to CPUs. A lower limit of a memory cgroup above the job takes precedence.
    """
    match = re.search(r"^MemTotal:\s*([0-9]+) kB", meminfo.read_text(), re.MULTILINE)
    total = int(match[1]) << 10 if match else 0
    if published.in_cpuset:
        online = len(read_cpus(ONLINE.read_text()))
        total = total * len(share.cpus) // max(online, len(share.cpus), 1)
    return min([total, *_limits_above(published.cgroups)])


def _limits_above(cgroups: Sequence[str]) -> list[int]:
    found = []
    for text in cgroups:
        path = Path(text)
        unified = (path / "memory.max").exists()
        name = "memory.max" if unified else "memory.limit_in_bytes"
        while (file := path / name).exists():
            with suppress(OSError, ValueError):
                found.append(int(file.read_text()))
            path = path.parent
    return found


def check_memory(containers: Sequence[PlannedContainer], memory: int) -> None:
    """Refuse containers that together ask for more memory than the job has on this node.

    Args:
        containers: the containers to make.
        memory: bytes that the job has, from :func:`job_memory`; 0: not known.

    Raises:
        SpecError: they ask for more.
    """
    asked = 0
    for planned in containers:
        asked += planned.memory
        if memory and asked > memory:
            raise SpecError(
                f"group {planned.group}: with container {planned.name}, {asked >> 20}M of memory "
                f"are asked for on {planned.node}, and the job has {memory >> 20}M there: ask for "
                "fewer containers or less memory, or reserve more cores"
            )
