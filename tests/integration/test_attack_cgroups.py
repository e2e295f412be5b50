"""Delegated cgroups as a weapon: how many, how deep, how named, and what may be set in them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import kernel
from tests.integration.attacks import as_root_inside, assert_gone, attack, bystander, lives
from tests.integration.conftest import published
from tests.pretend import CGROUPS, PretendJob

# Makes cgroups and puts a sleeping child into the last one.
CHILD = """
def sleeper():
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        while True: signal.pause()
    return pid
def put(pid, directory):
    fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=directory)
    os.write(fd, str(pid).encode())
    os.close(fd)
"""
NAMES = """
names = [b"-rf", b"--help", b"..a", b"...", b".hidden", b"a b", b"'", b'"', b"$(touch x)", b"`x`"]
names += [b"\\xff\\xfe", b"\\t", b"\\r", b"\\\\", b"x" * 255, b"lxc", b"*"]
made = 0
for root in sys.argv[1:]:
    fd = os.open(root, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.mkdir(name, dir_fd=below)
        put(sleeper(), os.open(name, os.O_RDONLY, dir_fd=below))
        made += 1
tell(made)
signal.pause()
"""
DEEP = """
root, depth = sys.argv[1], int(sys.argv[2])
fd = os.open(root, os.O_RDONLY)
for _ in range(depth):
    os.mkdir("d", dir_fd=fd)
    below = os.open("d", os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
pid = sleeper()
put(pid, fd)
"""
TELL = """
tell(pid)
signal.pause()
"""
FREEZE = """
for road in ("/d" * depth, "/d/d", "/d"):
    with open(f"{root}{road}/freezer.state", "w") as state: state.write("FROZEN")
tell(pid)
signal.pause()
"""
WIDE = """
root, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    os.mkdir(f"{root}/{number}")
pid = sleeper()
put(pid, os.open(f"{root}/{count // 2}", os.O_RDONLY))
tell(pid)
signal.pause()
"""


def group(job: PretendJob, controller: str) -> str:
    """Return the delegated cgroup of a controller."""
    wanted = f"{CGROUPS}/{controller}/"
    (found,) = [path for path in published(job).cgroups if path.startswith(wanted)]
    return found


def test_cgroups_of_any_name_are_destroyed(job: PretendJob) -> None:
    groups = [group(job, name) for name in ("freezer", "pids", "systemd")]
    with attack(job, CHILD + NAMES, *groups) as (process, made):
        assert int(made) == 17 * len(groups)
        assert_gone(job)
        assert process.wait(5) == -9
    assert CGROUPS.joinpath("freezer/tasks").exists()


@pytest.mark.parametrize(("controller", "depth"), [("pids", 2500), ("cpuset", 200)])
def test_cgroups_deeper_than_a_path_is_long_are_destroyed(
    job: PretendJob, controller: str, depth: int
) -> None:
    with attack(job, CHILD + DEEP + TELL, group(job, controller), str(depth)) as (_, pid):
        assert kernel.read(f"/proc/{pid}/cgroup").count("/d") >= min(depth, 2000)  # of 4,096 bytes
        assert_gone(job, 20)
        assert not lives(int(pid))


def test_what_is_frozen_at_every_level_is_destroyed(job: PretendJob) -> None:
    """Thawing the innermost does not help while one above it is frozen."""
    root = group(job, "freezer")
    with attack(job, CHILD + DEEP + FREEZE, root, "5") as (_, pid):
        for level in ("d", "d/d"):
            assert Path(root, level, "freezer.self_freezing").read_text() == "1\n"
        assert Path(root, "d/d/freezer.state").read_text() in ("FROZEN\n", "FREEZING\n")
        assert_gone(job)
        assert not lives(int(pid))


def test_twenty_thousand_cgroups_keep_nobody_alive_and_hold_no_hook(job: PretendJob) -> None:
    """What cannot be removed before the deadline is said, and is removed by the next one."""
    root, count = group(job, "pids"), 20_000
    with attack(job, CHILD + WIDE, root, str(count)) as (process, pid):
        assert len(os.listdir(root)) > count
        assert f"/{count // 2}\n" in kernel.read(f"/proc/{pid}/cgroup")
        begin = time.monotonic()
        done = job.node_side("destroy", "--deadline", "1", check=False)
        assert time.monotonic() - begin < 2
        assert (done.status, "cgroups" in done.stderr) in ((3, True), (0, False)), done.stderr
        assert not lives(int(pid))
        assert process.wait(5) == -9
    assert job.node_side("destroy", "--deadline", "20", check=False).status == 0
    assert not Path(root).exists()


# Each is a way to more than the job has; what worked is told.
ESCAPES = """
import itertools
own, bobs_pid, bobs_group = sys.argv[1:4]
worked, tried = [], 0
def attempt(path, text):
    global tried
    tried += 1
    try:
        with open(path, "w") as file: file.write(text)
    except OSError:
        return
    worked.append(path)
roots = sys.argv[4:]
for root in roots:
    child = root + "/child"
    os.makedirs(child, exist_ok=True)
    parent, top = os.path.dirname(root), "/".join(root.split("/")[:5])
    for name in ("cgroup.procs", "tasks"):
        for outer in (parent, os.path.dirname(parent), top, bobs_group):
            attempt(f"{outer}/{name}", own)
        for inner in (root, child):
            attempt(f"{inner}/{name}", bobs_pid)
            attempt(f"{inner}/{name}", "1")
    for place in (root, parent, top):
        for name, text in {
            "cgroup.clone_children": "0", "notify_on_release": "1", "release_agent": "/tmp/x",
            "cpuset.cpus": "0-1", "cpuset.mems": "0", "cpuset.cpu_exclusive": "1",
            "cpuset.sched_load_balance": "0", "devices.allow": "a", "freezer.state": "FROZEN",
            "memory.limit_in_bytes": "-1", "pids.max": "max", "cpu.shares": "100000",
            "blkio.weight": "1000", "cgroup.sane_behavior": "1",
        }.items():
            attempt(f"{place}/{name}", text)
    os.rmdir(child)
    for target in (parent + "/escaped", os.path.dirname(parent) + "/escaped"):
        tried += 1
        try: os.rename(root, target)
        except OSError: pass
        else: worked.append(target)
        try: os.mkdir(target)
        except OSError: pass
        else: worked.append(target)
tell(tried, *worked)
"""
# In a child of the delegated cgroups the user owns every file: the kernel is what refuses.
ABOVE_THE_PARENT = """
cpuset, devices, cpus = sys.argv[1:4]
worked = []
def attempt(path, text):
    try:
        with open(path, "w") as file: file.write(text)
    except OSError:
        return
    worked.append(path)
for root in (cpuset, devices):
    os.mkdir(root + "/child")
attempt(cpuset + "/child/cpuset.cpus", cpus)
attempt(cpuset + "/child/cpuset.cpu_exclusive", "1")
attempt(cpuset + "/child/release_agent", "/tmp/x")
for text in ("a", "b *:* rwm", "c 1:1 rwm"):
    attempt(devices + "/child/devices.allow", text)
os.sched_setaffinity(0, range(os.cpu_count()))
tell("-".join(map(str, sorted(os.sched_getaffinity(0)))), *worked)
"""


@contextmanager
def without_a_job_cpu(job: PretendJob) -> Iterator[str]:
    """Give CPUs of which the job has only a part; there must be more than one on this machine."""
    whole = CGROUPS.joinpath("cpuset/cpuset.cpus").read_text().strip()
    assert whole != job.cpus
    yield whole


@pytest.mark.parametrize("as_containers_root", [False, True])
def test_nothing_that_a_user_writes_to_cgroups_gets_out_of_the_job(
    make_job: Callable[[], PretendJob], other_user: str, as_containers_root: bool
) -> None:
    job = make_job()
    before = as_root_inside(job) if as_containers_root else ()
    bobs = CGROUPS / "freezer" / f"oar-lxc-test-{job.id}"
    bobs.mkdir()
    try:
        with bystander(other_user) as bob:
            arguments = ["0", str(bob), str(bobs), *published(job).cgroups]
            with attack(job, ESCAPES, *arguments, before=before) as (_, line):
                tried, *worked = line.split()
                assert worked == []
                assert int(tried) > 300
            assert_gone(job)
    finally:
        bobs.rmdir()


def test_no_child_of_a_delegated_cgroup_has_more_than_the_job(job: PretendJob) -> None:
    with without_a_job_cpu(job) as whole:
        arguments = [group(job, "cpuset"), group(job, "devices"), whole]
        with attack(job, ABOVE_THE_PARENT, *arguments) as (_, line):
            assert line == job.cpus
        assert_gone(job)
