"""Everything that a node's kernel and disk have of a job, told by a reader of its own.

It shares no code with the software under test, and runs anywhere with root's rights:
``python3 kernel.py --job 42 --user alice --first-id 1879048192`` prints a JSON object of lists.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ID_COUNT = 65536
STATE = Path("/var/lib/oar-lxc")


def processes() -> Iterator[int]:
    """Yield all process ids."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def read(path: str) -> str:
    """Return a file's text; what is gone, or too deep, is empty."""
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def is_dead(pid: int) -> bool:
    """Whether a process is a zombie, which only waits for its parent, or gone."""
    stat = read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[:1] in ([], ["Z"], ["X"])


def find_processes(job: int, user: str, first_id: int) -> list[str]:
    """Return processes under the job's ids, in its cgroups, or of its directory."""
    found = []
    name = f"{user}_{job}"
    for pid in processes():
        status = read(f"/proc/{pid}/status")
        match = re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)
        inside = re.search(rf"/{re.escape(name)}(/|$)", read(f"/proc/{pid}/cgroup"), re.MULTILINE)
        in_range = match and first_id and first_id <= int(match[1]) < first_id + ID_COUNT
        monitor = f"{STATE}/jobs/{job}/" in read(f"/proc/{pid}/cmdline")
        # This reader itself names the job in its arguments, not its directory.
        if (inside or in_range or monitor) and not is_dead(pid):
            found.append(f"{pid} {read(f'/proc/{pid}/comm').strip()}")
    return found


def find_cgroups(job: int, user: str, first_id: int) -> list[str]:
    """Return cgroups named after the job, in every hierarchy that is mounted."""
    roots = {
        line.split(" ")[1]
        for line in read("/proc/self/mounts").split("\n")
        if " cgroup " in line or " cgroup2 " in line
    }
    wanted = f"{user}_{job}"
    found = []
    for root in sorted(roots):
        for parent in (".", "oar", "oar-lxc", "oar.slice"):
            path = Path(root) / parent / wanted
            if path.is_dir():
                found.append(str(path))
    return found


def find_mounts(job: int, user: str, first_id: int) -> list[str]:
    """Return mounts below the job's directory, in every mount namespace of this node."""
    below = f" {STATE}/jobs/{job}/"
    namespaces: dict[str, int] = {}
    for pid in processes():
        try:
            namespaces.setdefault(os.readlink(f"/proc/{pid}/ns/mnt"), pid)
        except OSError:
            continue
    return sorted(
        f"{name}: {line.split(' ')[4]}"
        for name, pid in namespaces.items()
        for line in read(f"/proc/{pid}/mountinfo").split("\n")
        if below in line
    )


def find_links(job: int, user: str, first_id: int) -> list[str]:
    """Return network devices of the job, and what is plugged into its bridge."""
    bridge = f"olb{job}"
    ports = Path(f"/sys/class/net/{bridge}/brif")
    names = [name for name in os.listdir("/sys/class/net") if name in (bridge, f"olv{job}")]
    return names + (os.listdir(ports) if ports.is_dir() else [])


def find_files(job: int, user: str, first_id: int) -> list[str]:
    """Return the job's directory and record, keys and locks of it, and OAR's own files of it."""
    paths = [
        STATE / "jobs" / str(job),
        STATE / "records" / f"{job}.json",
        Path(f"/var/lib/oar/{user}_{job}.jobkey"),
        Path(f"/var/lib/oar/{user}_{job}.env"),
        Path(f"/var/lib/oar/{job}"),
        Path(f"/var/lib/oar/{job}_resources"),
    ]
    strays = [*(STATE / "records").glob(f".{job}.json*"), *(STATE / "jobs").glob(f".{job}*")]
    return [str(path) for path in [*paths, *strays] if os.path.lexists(path)]


def find_lines(job: int, user: str, first_id: int) -> list[str]:
    """Return lines that grant the job's ids or its bridge to anyone."""
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        found += [f"{path}: {x}" for x in read(path).split("\n") if f":{first_id}:" in x]
    path = "/etc/lxc/lxc-usernet"
    found += [f"{path}: {x}" for x in read(path).split("\n") if f"olb{job}" in x.split()]
    return found


KINDS: dict[str, Callable[[int, str, int], list[str]]] = {
    "processes": find_processes,
    "cgroups": find_cgroups,
    "mounts": find_mounts,
    "links": find_links,
    "files": find_files,
    "lines": find_lines,
}


def find_all(job: int, user: str, first_id: int) -> dict[str, list[str]]:
    """Return all that is left of a job, by kind; ``first_id`` 0 where its range is not known."""
    return {kind: find(job, user, first_id) for kind, find in KINDS.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--first-id", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(find_all(options.job, options.user, options.first_id)))
