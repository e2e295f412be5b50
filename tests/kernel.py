"""Everything that a node's kernel and disk have of a job, told by a reader of its own.

It shares no code with the software under test, and runs anywhere with root's rights:
``python3 kernel.py --job 42 --user alice`` prints a JSON object of lists. Which ids the job had it
finds itself: by its record or directory, else all that its user had on this node and no other job
has now. Where nothing tells, it demands them (``--first-id``), and says nothing of the job.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
FIRST_ID = 0x24000000  # from here on, ids are those of containers
ID_COUNT = 65536
STATE = Path("/var/lib/oar-lxc")
TABLE = STATE / "ranges.json"


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
    """Return processes of the job by ids, cgroup, directory or environment, seen in two ways."""
    found = find_by_psutil(job, first_id)
    name = f"{user}_{job}"
    for pid in processes():
        inside = re.search(
            rf"/({re.escape(name)}|oar-lxc-{job}\.service|oar-u\d+-j{job}\.slice)(/|$)",
            read(f"/proc/{pid}/cgroup"),
            re.MULTILINE,
        )
        in_range = first_id and has_ids(pid, first_id)
        monitor = f"{STATE}/jobs/{job}/" in read(f"/proc/{pid}/cmdline")
        in_job = f"OAR_JOB_ID={job}" in read(f"/proc/{pid}/environ").split("\0")
        # This reader itself names the job in its arguments, not its directory.
        if (inside or in_range or monitor or in_job) and not is_dead(pid):
            found[pid] = read(f"/proc/{pid}/comm").strip()
    return [f"{pid} {name}" for pid, name in sorted(found.items())]


def find_by_psutil(job: int, first_id: int) -> dict[int, str]:
    """Return the names of the job's processes as psutil finds them, which reads by itself."""
    found = {}
    for process in psutil.process_iter(["uids", "gids", "cmdline", "environ", "name", "status"]):
        facts = process.info
        ids = (*(facts["uids"] or ()), *(facts["gids"] or ()))
        in_range = first_id and any(first_id <= one < first_id + ID_COUNT for one in ids)
        monitor = any(f"{STATE}/jobs/{job}/" in word for word in facts["cmdline"] or ())
        in_job = (facts["environ"] or {}).get("OAR_JOB_ID") == str(job)
        if (in_range or monitor or in_job) and facts["status"] not in DEAD:
            found[process.pid] = facts["name"]
    return found


def has_ids(pid: int, first_id: int) -> bool:
    """Whether a process has an id of a range, of any kind, or a user namespace that does."""
    last = first_id + ID_COUNT - 1
    status = read(f"/proc/{pid}/status")
    lines = re.findall(r"^(?:Uid|Gid|Groups):\t(.*)", status, re.MULTILINE)
    if any(first_id <= int(word) <= last for line in lines for word in line.split()):
        return True
    for name in ("uid_map", "gid_map"):
        for line in read(f"/proc/{pid}/{name}").splitlines():
            _, start, count = map(int, line.split())
            # Root's own namespaces may have all ids, from 0 on.
            if 0 < start <= last and start + count > first_id:
                return True
    return False


def find_cgroups(job: int, user: str, first_id: int) -> list[str]:
    """Return cgroups named after the job, at any depth of every hierarchy of either version."""
    wanted = re.compile(rf"{re.escape(user)}_{job}|oar-u\d+-j{job}\.slice|oar-lxc-{job}\.service")
    return [
        str(Path(where) / name)
        for root in hierarchies()
        for where, names, _ in os.walk(root)
        for name in names
        if wanted.fullmatch(name)
    ]


def find_units(job: int, user: str, first_id: int) -> list[str]:
    """Return systemd's units of the job, failed ones too, where it places jobs."""
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    own = [f"oar-lxc-{job}.*", f"oar-u*-j{job}.*", f"oar-u*-j{job}-*"]
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", *own]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in told.splitlines()]


def hierarchies() -> list[str]:
    """Return where cgroup hierarchies are mounted."""
    lines = [line.split(" ") for line in read("/proc/self/mounts").split("\n")]
    return sorted({words[1] for words in lines if words[2:3] in (["cgroup"], ["cgroup2"])})


def find_mounts(job: int, user: str, first_id: int) -> list[str]:
    """Return mounts of the job's directory or on it, in every mount namespace of this node.

    Inside a container they have other paths: what is mounted, or an option, names the directory.
    """
    # A path of ours is plain: a user's own mount may have any name, one that looks like ours too.
    below = re.compile(rf"(^|[ =:,])/[\w./-]*/(jobs/{job}|trash/{job}-\d+)([/ :,]|$)")
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
        if below.search(line)
    )


def find_links(job: int, user: str, first_id: int) -> list[str]:
    """Return network devices of the job, and what is plugged into its bridge."""
    bridge = f"olb{job}"
    ports = Path(f"/sys/class/net/{bridge}/brif")
    names = [
        name for name in os.listdir("/sys/class/net") if name in (bridge, f"olu{job}", f"olv{job}")
    ]
    if ports.is_dir():
        names += {*os.listdir(ports)} - {*names}
    return names


def links_inside(job: int) -> list[str]:
    """Return the devices in the job's network namespace."""
    enter = ["nsenter", f"--net={STATE}/jobs/{job}/namespaces/net"]
    listed = subprocess.run([*enter, "ip", "-j", "link"], capture_output=True, check=True).stdout
    return [str(link["ifname"]) for link in json.loads(listed)]


def find_files(job: int, user: str, first_id: int) -> list[str]:
    """Return the job's directory, record and trash, and OAR's own files of it."""
    paths = [
        STATE / "jobs" / str(job),
        STATE / "records" / f"{job}.json",
        Path(f"/var/lib/oar/{user}_{job}.jobkey"),
        Path(f"/var/lib/oar/{user}_{job}.env"),
        Path(f"/var/lib/oar/{job}"),
        Path(f"/var/lib/oar/{job}_resources"),
        Path(f"/var/lib/oar/pid_of_oarexec_for_jobId_{job}"),
    ]
    strays = [
        *(STATE / "records").glob(f".{job}.json*"),
        *(STATE / "jobs").glob(f".{job}*"),
        *(STATE / "trash").glob(f"{job}-*"),
    ]
    found = [str(path) for path in [*paths, *strays] if os.path.lexists(path)]
    return found + (find_shared(first_id) if first_id else [])


def find_shared(first_id: int) -> list[str]:
    """Return the files of a range's ids in the directories that all users share."""
    first, last = first_id - 1, first_id + ID_COUNT
    own = [f"-{kind} +{first} -{kind} -{last}".split() for kind in ("uid", "gid")]
    places = [
        path
        for path in ("/dev/mqueue", "/dev/shm", "/run/lock", "/tmp", "/var/tmp")
        if Path(path).is_dir()
    ]
    command = ["find", *places, "-xdev", "(", *own[0], "-o", *own[1], ")", "-print0"]
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return [os.fsdecode(path) for path in told.stdout.split(b"\0") if path]


def find_ipc(job: int, user: str, first_id: int) -> list[str]:
    """Return the SysV IPC of a range's ids, but for memory that goes with whoever has it still."""
    found = []
    for kind in ("shm", "sem", "msg"):
        head, *lines = read(f"/proc/sysvipc/{kind}").splitlines() or [""]
        for line in lines:
            row = dict(zip(head.split(), line.split(), strict=False))
            ids = [int(row[name]) for name in ("uid", "gid", "cuid", "cgid")]
            dying = kind == "shm" and int(row["perms"], 8) & 0o1000
            if first_id and not dying and any(0 <= x - first_id < ID_COUNT for x in ids):
                found.append(f"{kind} {line.split()[1]}")
    return found


def find_lines(job: int, user: str, first_id: int) -> list[str]:
    """Return lines that let the job's key in."""
    path = "/var/lib/oar/.ssh/authorized_keys"
    return [f"{path}: {x}" for x in read(path).split("\n") if f'/{user}_{job}"' in x]


def nft_table() -> str:
    """Return the packet filter's table as nft prints it, empty where there is none."""
    argv = ["nft", "list", "table", "inet", "oar_lxc"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def find_rules(job: int, user: str, first_id: int) -> list[str]:
    """Return what the packet filter names of the job: its bridge, and its VXLAN in packets."""
    vni = (job & 0xFFFFFF) << 8
    return re.findall(rf'"olb{job}"|\S+ \. 0x0*{vni:x}\b', nft_table())


KINDS: dict[str, Callable[[int, str, int], list[str]]] = {
    "processes": find_processes,
    "cgroups": find_cgroups,
    "units": find_units,
    "mounts": find_mounts,
    "links": find_links,
    "files": find_files,
    "ipc": find_ipc,
    "lines": find_lines,
    "rules": find_rules,
}


def find_first_ids(job: int, user: str) -> set[int]:
    """Return where the ranges start that a job has or may have had.

    Raises:
        SystemExit: nothing on this node tells.
    """
    directory = STATE / "jobs" / str(job)
    record = read(f"{STATE}/records/{job}.json")
    if match := re.search(r'"first_id": ([1-9]\d*)', record):
        return {int(match[1])}
    if directory.is_dir() and directory.stat().st_gid >= FIRST_ID:
        return {directory.stat().st_gid}
    found = {first for first, uid in had().items() if uid == uid_of(user)}
    if not found:
        sys.exit(
            f"{TABLE} has no ids of user {user!r}, so that nothing tells which job {job} had: "
            "give --first-id, by job.json or the job's record as they were while it ran"
        )
    return {first for first in found if not is_anothers(first, job)}


def uid_of(user: str) -> int:
    """Return a user's id, -1 where there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return -1


def had() -> dict[int, int]:
    """Return which user had which range on this node, by the first id."""
    try:
        return {int(first): int(who[0]) for first, who in json.loads(read(str(TABLE))).items()}
    except ValueError:
        return {}


def is_anothers(first_id: int, job: int) -> bool:
    """Whether another job has a range, by its record."""
    others = (x for x in (STATE / "records").glob("*.json") if x.name != f"{job}.json")
    return any(re.search(rf'"first_id": {first_id}\b', read(str(path))) for path in others)


def find_all(job: int, user: str, first_id: int) -> dict[str, list[str]]:
    """Return all that is left of a job, by kind; ``first_id`` 0 where its range is not known.

    A range stays with its user: what is under it may be of the user's next job already.
    """
    if first_id and is_anothers(first_id, job):
        first_id = 0
    return {kind: find(job, user, first_id) for kind, find in KINDS.items()}


def find_any() -> dict[str, list[str]]:
    """Return what is on this node of any job whatever, by kind."""
    cgroups = (
        str(path)
        for root in hierarchies()
        for below in ("oar/*/", "oar-lxc/*/", "oar.slice/oar-lxc.slice/*/", "oar.slice/*/*.slice/")
        for path in Path(root).glob(below)
    )
    files = [*(STATE / "records").glob("*"), *(STATE / "jobs").glob("*")]
    files += [*(STATE / "records").glob(".*"), *(STATE / "jobs").glob(".*")]
    files += [*(STATE / "trash").glob("*"), *Path("/var/lib/oar").glob("*_*.jobkey")]
    return {
        "processes": [
            f"{pid} {read(f'/proc/{pid}/comm').strip()}"
            for pid in processes()
            if f"{STATE}/jobs/" in read(f"/proc/{pid}/cmdline") and not is_dead(pid)
        ],
        "cgroups": sorted(cgroups),
        "mounts": [x for x in read("/proc/self/mounts").split("\n") if f" {STATE}/jobs/" in x],
        "links": [x for x in os.listdir("/sys/class/net") if re.fullmatch(r"ol[buv]\d+", x)],
        "files": sorted(map(str, files)),
        "rules": re.findall(r'"olb\d+"|\S+ \. 0x[0-9a-f]+\b', nft_table()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=int, help="the job; without one, what any job left")
    parser.add_argument("--user", default="")
    parser.add_argument("--first-id", type=int, help="where its ids start; found by default")
    options = parser.parse_args()
    if not options.job:
        print(json.dumps(find_any()))
        sys.exit()
    firsts = find_first_ids(options.job, options.user)
    if options.first_id is not None:
        if had().get(options.first_id, uid_of(options.user)) != uid_of(options.user):
            sys.exit(f"--first-id {options.first_id} is where ids of another user start")
        firsts = {options.first_id}
    everything: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for one in firsts or {0}:
        for kind, names in find_all(options.job, options.user, one).items():
            everything[kind].update(names)
    print(json.dumps({kind: sorted(names) for kind, names in everything.items()}))
