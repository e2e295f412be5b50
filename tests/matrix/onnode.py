"""What the matrix asks a node, in one program that runs there as root, with Python alone.

``python3 - QUESTION`` reads a JSON argument and prints a JSON answer.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/oar-lxc")
LOG = Path("/var/log/oar-lxc.log")


def text(path: str | Path) -> str:
    """Return a file's text, empty where it is gone."""
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def started(pid: int) -> str:
    """Return a process's identity: number and start time; empty where it is gone or dead."""
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return f"{pid}@{fields[19]}" if fields and fields[0] not in "ZX" else ""


def processes(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all processes."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        identity = started(pid)
        uid = re.search(r"^Uid:\t(\d+)", text(f"/proc/{pid}/status"), re.MULTILINE)
        parent = re.search(r"^PPid:\t(\d+)", text(f"/proc/{pid}/status"), re.MULTILINE)
        job = re.search(r"(?:^|\0)OAR_JOB_ID=(\d+)\0", text(f"/proc/{pid}/environ"))
        if identity and uid and parent:
            found.append(
                {
                    "pid": pid,
                    "identity": identity,
                    "parent": int(parent[1]),
                    "uid": int(uid[1]),
                    "job": int(job[1]) if job else 0,
                    "state": text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1],
                    "comm": text(f"/proc/{pid}/comm").strip(),
                    "command": text(f"/proc/{pid}/cmdline").replace("\0", " ").strip(),
                    "cgroup": text(f"/proc/{pid}/cgroup"),
                }
            )
    return found


def kill(options: dict[str, Any]) -> str:
    """Send a signal to a process if it is still the one that was meant; return who has it."""
    pid = int(options["identity"].partition("@")[0])
    handle = os.pidfd_open(pid)
    if started(pid) != options["identity"]:
        return "another"
    # Not signal.pidfd_send_signal: nothing of signal's is needed but the number.
    os.kill(pid, options["signal"])
    os.close(handle)
    return options["identity"]  # type: ignore[no-any-return]


def alive(options: dict[str, Any]) -> list[str]:
    """Return which processes still live."""
    return [x for x in options["identities"] if started(int(x.partition("@")[0])) == x]


def log(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the node's log has of jobs."""
    wanted = set(options["jobs"])
    found = []
    for line in text(LOG).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a hook was killed while it wrote
        if event.get("job") in wanted:
            found.append(event)
    return found


def snapshot(options: dict[str, Any]) -> dict[str, str]:
    """Return what must not change of jobs that are not at fault, and of canaries."""
    found: dict[str, str] = {}
    for job in options["jobs"]:
        key = f"job {job['id']}"
        found[f"{key} record"] = text(STATE / "records" / f"{job['id']}.json")
        found[f"{key} job.json"] = text(STATE / "jobs" / str(job["id"]) / "job.json")
        for name in (f"olb{job['id']}", f"olu{job['id']}", f"olv{job['id']}"):
            device = Path("/sys/class/net") / name
            ports = sorted(os.listdir(device / "brif")) if (device / "brif").is_dir() else []
            found[f"{key} {name}"] = f"{text(device / 'ifindex').strip()} {ports}"
        found[f"{key} key"] = str(
            text("/var/lib/oar/.ssh/authorized_keys").count(f'_{job["id"]}"')
        )
        found |= _containers(key, job["id"])
    for pid in options["pids"]:
        found[f"canary process {pid}"] = started(pid)
    for path in options["files"]:
        found[f"canary file {path}"] = text(path)
    for point in options["mounts"]:
        lines = [x for x in text("/proc/self/mountinfo").splitlines() if f" {point} " in x]
        found[f"canary mount {point}"] = "\n".join(lines)
    for path, line in options["lines"]:
        found[f"canary line {path}"] = str(text(path).splitlines().count(line))
    return found


def _containers(key: str, job: int) -> dict[str, str]:
    """Return the monitors of a job's containers and their inits, as processes."""
    found = {}
    everything = processes({})
    mark = f"[lxc monitor] {STATE}/jobs/{job}/containers "
    for process in everything:
        if process["command"].startswith(mark):
            name = process["command"].split()[-1]
            inits = [x["identity"] for x in everything if x["parent"] == process["pid"]]
            found[f"{key} {name} monitor"] = process["identity"]
            found[f"{key} {name} init"] = " ".join(inits)
    return found


QUESTIONS = {f.__name__: f for f in (processes, kill, alive, log, snapshot)}

if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]](json.loads(sys.argv[2]))))
