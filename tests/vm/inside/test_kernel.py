"""What this machine is for: cgroups of version 2 alone."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.linux.run import run

CGROUPS = Path("/sys/fs/cgroup")


def test_all_controllers_are_in_one_hierarchy() -> None:
    found = (CGROUPS / "cgroup.controllers").read_text().split()
    assert {"cpu", "io", "memory", "pids"} <= set(found)
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [where for _, where, kind, *_ in mounts if kind.startswith("cgroup")] == [str(CGROUPS)]


def test_a_job_is_confined_to_its_memory() -> None:
    argv = ("systemd-run", "--quiet", "--scope", "--collect", "-p", "MemoryMax=64M", "--")
    program = "import sys; print(len(b'x' * (int(sys.argv[1]) << 20)))"
    assert run([*argv, "/usr/bin/python3", "-c", program, "4"]).stdout == f"{4 << 20}\n"
    done = run([*argv, "/usr/bin/python3", "-c", program, "256"], check=False)
    assert (done.status, done.stdout) == (-9, "")


def test_the_machine_has_booted_without_a_failure() -> None:
    assert run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""
    assert run(["systemctl", "is-system-running"], check=False).stdout == "running\n"
