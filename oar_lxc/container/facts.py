"""What the kernel, its cgroups and its configuration say of a container."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from oar_lxc.container.limits import oom_kills

# Version 1's word for "no limit" is the highest multiple of a page, which depends on the page.
UNLIMITED = 1 << 62
LISTEN = "0A"  # include/net/tcp_states.h


def running_facts(groups: Sequence[str], name: str, pid: int) -> dict[str, Any]:
    """Return what the kernel says of a container that runs; what cannot be read is left out.

    Args:
        groups: the job's cgroups.
        name: the container.
        pid: of its init.

    Returns:
        ``cpus``, ``started`` (seconds since the epoch), ``processes``, ``processes_limit``,
        ``memory`` and ``memory_limit`` (bytes; 0: no limit of its own), ``oom_kills``,
        ``cpu_seconds`` and ``listens`` (TCP ports that something in it listens at).
    """
    facts = {
        "cpus": _status(pid, "Cpus_allowed_list"),
        "started": start_of(pid),
        "listens": _listening(pid),
        "oom_kills": oom_kills(groups, name),
        **_usage(groups, name),
    }
    return {key: value for key, value in facts.items() if value is not None}


def init_facts(pid: int) -> dict[str, Any]:
    """Return what the kernel says of a container's init: id, CPUs it may use, cgroup."""
    facts: dict[str, Any] = {"pid": max(pid, 0), "cpus": "", "cgroup": ""}
    if pid <= 0:
        return facts
    facts["cpus"] = _status(pid, "Cpus_allowed_list") or ""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpuset" in controllers.split(",") or not facts["cgroup"]:
                facts["cgroup"] = path
    return facts


def _status(pid: int, key: str) -> str | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return line.partition(":")[2].strip()
    return None


def start_of(pid: int) -> float | None:
    """Return when a process was started, in seconds since the epoch; None where it is gone."""
    import psutil  # takes 0.04 s, which a launch should not

    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def _usage(groups: Sequence[str], name: str) -> dict[str, Any]:
    """Return what a container uses, from the files of its cgroups, version 1 or 2."""
    facts: dict[str, Any] = {}
    for group in groups:
        own = Path(group) / name  # above what the container itself may change
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
    return facts


def _listening(pid: int) -> list[int] | None:
    """Return the TCP ports that something in a process's network listens at."""
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
