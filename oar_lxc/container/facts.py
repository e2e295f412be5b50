"""Facts of a running container, read from the kernel: processes, cgroups, network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from oar_lxc.container.limits import oom_kills
from oar_lxc.linux.process import status_words

# cgroup version 1 writes "no limit" as the highest multiple of the page size, which may differ.
UNLIMITED = 1 << 62
LISTEN = "0A"  # include/net/tcp_states.h


def running_facts(groups: Sequence[str], name: str, pid: int) -> dict[str, Any]:
    """Return what the kernel knows of a running container; leave out what cannot be read.

    Args:
        groups: the job's delegated cgroups.
        name: the container.
        pid: the process id of its init.

    Returns:
        ``cpus``, ``started`` (seconds since the epoch), ``processes``, ``processes_limit``,
        ``memory`` and ``memory_limit`` (bytes; 0: no limit of its own), ``oom_kills``,
        ``cpu_seconds`` and ``listens`` (TCP ports where its processes listen).
    """
    facts = {
        "cpus": _allowed_cpus(pid) or None,
        "started": start_of(pid),
        "listens": _listening(pid),
        "oom_kills": oom_kills(groups, name),
        **_usage(groups, name),
    }
    return {key: value for key, value in facts.items() if value is not None}


def init_facts(pid: int) -> dict[str, Any]:
    """Return facts of a container's init: process id, the CPUs it may use, its cgroup."""
    facts: dict[str, Any] = {"pid": max(pid, 0), "cpus": "", "cgroup": ""}
    if pid <= 0:
        return facts
    facts["cpus"] = _allowed_cpus(pid)
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpuset" in controllers.split(",") or not facts["cgroup"]:
                facts["cgroup"] = path
    return facts


def _allowed_cpus(pid: int) -> str:
    """Return the CPUs that a process may use, as the kernel lists them; empty if it is gone."""
    with suppress(OSError):
        return b"".join(status_words(f"/proc/{pid}/status", b"Cpus_allowed_list")).decode()
    return ""


def start_of(pid: int) -> float | None:
    """Return when a process was started, in seconds since the epoch; None if it is gone."""
    import psutil  # takes 0.04 s, and a launch does not need it

    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def _usage(groups: Sequence[str], name: str) -> dict[str, Any]:
    """Return what a container uses, from the files of its cgroups, version 1 or 2."""
    facts: dict[str, Any] = {}
    for group in groups:
        own = Path(group) / name  # the limit cgroup, which the container cannot change
        for file, key in (
            ("memory.usage_in_bytes", "memory"),
            ("memory.current", "memory"),
            ("memory.limit_in_bytes", "memory_limit"),
            ("memory.max", "memory_limit"),
            ("pids.current", "processes"),
            ("pids.max", "processes_limit"),
        ):
            with suppress(OSError, ValueError):
                text = (own / file).read_text().strip()
                number = 0 if text == "max" else int(text)
                facts[key] = 0 if number >= UNLIMITED else number
        with suppress(OSError, ValueError):
            seconds = int((own / "cpuacct.usage").read_text()) / 1e9
            facts["cpu_seconds"] = round(seconds, 2)
        with suppress(OSError, ValueError):
            used = re.search(
                r"^usage_usec ([0-9]+)$", (own / "cpu.stat").read_text(), re.MULTILINE
            )
            if used:
                facts["cpu_seconds"] = round(int(used[1]) / 1e6, 2)
    return facts


def _listening(pid: int) -> list[int] | None:
    """Return the TCP ports where a process of the same network listens; None if not readable."""
    ports: set[int] = set()
    read = False
    for table in ("tcp", "tcp6"):
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTEN:
                    ports.add(int(words[1].rpartition(":")[2], 16))
            read = True
    return sorted(ports) if read else None
