"""Limits of containers of a real job: that they hold, and that the containers are told of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.container.limits import oom_kills
from tests import kernel
from tests.integration.conftest import left, next_id, published
from tests.integration.jobs import Running, close, start_script, write_spec
from tests.integration.lxcfs import running_lxcfs
from tests.pretend import pretend_job

MEMORY = 160 << 20
SPEC = """
wait = "ssh"
[[group]]
name = "vm"
per_core = true
memory = "160M"
processes = 120
"""


@pytest.fixture(scope="module")
def lxcfs() -> Iterator[subprocess.Popen[bytes]]:
    with running_lxcfs() as process:
        yield process


@pytest.fixture(scope="module")
def running(user: str, lxcfs: subprocess.Popen[bytes]) -> Iterator[Running]:
    """Return a job with a container for each of its two cores."""
    with pretend_job(next_id(), user, "0-1") as job:
        first_id = published(job).first_id
        running = start_script(job, "--spec", write_spec(job, SPEC))
        try:
            yield running
            assert running.process.poll() is None  # nothing inside was the job's end
        finally:
            close(running.process)
    assert left(job, first_id) == {}


def cgroup_of(running: Running, controller: str, name: str) -> Path:
    (path,) = (x for x in published(running.job).cgroups if f"/{controller}/" in x)
    return Path(path) / name


def test_each_container_has_its_own_cpu(running: Running) -> None:
    assert [running.containers()[name]["cpus"] for name in ("vm1", "vm2")] == ["0", "1"]


@pytest.mark.parametrize("name", ["vm1", "vm2"])
def test_a_container_is_told_its_share(running: Running, name: str) -> None:
    assert (
        running.inside(name, "nproc; getconf _NPROCESSORS_ONLN; grep -c ^processor /proc/cpuinfo")
        == "1\n1\n1"
    )
    total = running.inside(name, "free -b").splitlines()[1].split()[1]
    assert int(total) == MEMORY
    up = float(running.inside(name, "cut -d ' ' -f 1 /proc/uptime"))
    assert up < float(kernel.read("/proc/uptime").split()[0]) - 5


def test_root_inside_cannot_lift_the_limits(running: Running) -> None:
    lift = "; ".join(
        f"for x in $(find /sys/fs/cgroup -name {name}); do echo {value} > $x; done"
        for name, value in (
            ("memory.memsw.limit_in_bytes", -1),
            ("memory.limit_in_bytes", -1),
            ("pids.max", "max"),
            ("cpuset.cpus", "0-1"),
        )
    )
    running.cli("exec", "vm1", "--", "sh", "-c", lift)
    assert (cgroup_of(running, "memory", "vm1") / "memory.limit_in_bytes").read_text() == (
        f"{MEMORY}\n"
    )
    assert (cgroup_of(running, "pids", "vm1") / "pids.max").read_text() == "120\n"
    line = "taskset -c 0-1 grep Cpus_allowed_list /proc/self/status | cut -f2"
    assert running.inside("vm1", line) == "0"
    assert int(running.inside("vm1", "free -b").splitlines()[1].split()[1]) == MEMORY


def test_limits_hold_after_a_boot_from_inside(running: Running) -> None:
    before = init(running, "vm1")
    running.cli("exec", "vm1", "--", "reboot")
    end = time.monotonic() + 20
    while running.containers()["vm1"]["pid"] in (0, before) and time.monotonic() < end:
        time.sleep(0.2)
    test_root_inside_cannot_lift_the_limits(running)
    assert running.cli("exec", "vm1", "--", "sh", "-c", "tail /dev/zero").status == 137
    usage = cgroup_of(running, "memory", "vm1") / "memory.max_usage_in_bytes"
    assert int(usage.read_text()) <= MEMORY


def test_a_fork_bomb_stays_inside(running: Running) -> None:
    pids = cgroup_of(running, "pids", "vm1")
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1"
    done = running.cli("exec", "vm1", "--", "sh", "-c", bomb)
    assert "Cannot fork" in done.stderr
    assert int((pids / "pids.current").read_text()) <= 120
    assert running.inside("vm2", "echo well") == "well"
    end = time.monotonic() + 30
    while int((pids / "pids.current").read_text()) > 60 and time.monotonic() < end:
        # It has died out already, or dies with all of its processes at once.
        subprocess.run(["pkill", "-KILL", "-x", "sh", "--ns", str(init(running, "vm1"))])
    assert running.inside("vm1", "echo well") == "well"


def init(running: Running, name: str) -> int:
    return int(running.containers()[name]["pid"])


def test_a_container_that_wants_too_much_memory_is_killed_inside(running: Running) -> None:
    cgroups = published(running.job).cgroups
    before, others = oom_kills(cgroups, "vm2") or 0, oom_kills(cgroups, "vm1")
    done = running.cli("exec", "vm2", "--", "sh", "-c", "tail /dev/zero")
    assert done.status == 137, done
    assert (oom_kills(cgroups, "vm2") or 0) > before
    assert oom_kills(cgroups, "vm1") == others
    assert running.inside("vm2", "systemctl is-active ssh") == "active"


def test_more_memory_than_the_limit_is_never_used(running: Running) -> None:
    usage = cgroup_of(running, "memory", "vm2") / "memory.max_usage_in_bytes"
    assert int(usage.read_text()) <= MEMORY
