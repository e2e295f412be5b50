"""Finding the processes of a job: all of these are real."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import is_zombie, pids
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import job_cgroups, processes
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.id_ranges import COUNT
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.ownership import Whose
from oar_lxc.root.placement import Hierarchy
from oar_lxc.root.processes import job_processes
from tests.unit.fakes.programs import wait_until

Spawn = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]
NOBODY = 0x70000000  # the first id of a range that nobody has


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobCgroups:
    """Return the cgroups of a job, made of plain directories."""
    (tmp_path / "oar/alice_42/lxc").mkdir(parents=True)
    monkeypatch.setattr(
        job_cgroups, "hierarchies", lambda: [Hierarchy(tmp_path, ("cpuset",), False)]
    )
    monkeypatch.setattr(processes, "_cgroups_of", lambda pid, threads: where(tmp_path, pid))
    return JobCgroups(42, "alice", "/oar/alice_42")


def belongings(cgroups: JobCgroups, whose: Whose) -> Belongings:
    """Return what belongs to the job, whose ids are given."""
    return Belongings(JobLayout(42), cgroups, whose)


def where(tmp_path: Path, pid: int) -> str:
    """Return what /proc would tell of the cgroups that a process was put into."""
    found = tmp_path.glob("oar/**/cgroup.procs")
    return "".join(
        f"4:cpuset:/{path.parent.relative_to(tmp_path)}\n"
        for path in found
        if str(pid) in path.read_text().split()
    )


def put(tmp_path: Path, path: str, *members: int) -> None:
    (tmp_path / path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members))


def test_everything_in_our_cgroups_belongs_to_the_job(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn
) -> None:
    inside, outside = spawn(["sleep", "60"]), spawn(["sleep", "60"])
    put(tmp_path, "oar/alice_42/lxc", inside.pid)
    assert outside.pid in set(pids())
    assert job_processes(belongings(cgroups, Whose(-1, NOBODY))) == {inside.pid}


def test_in_oars_cgroup_only_the_users_own_do(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn
) -> None:
    process = spawn(["sleep", "60"])
    put(tmp_path, "oar/alice_42", process.pid)
    assert job_processes(belongings(cgroups, Whose(os.getuid(), NOBODY))) == {process.pid}
    assert job_processes(belongings(cgroups, Whose(os.getuid() + 1, NOBODY))) == set()


def test_a_hook_is_no_process_of_the_job_and_its_parents_are_none(
    cgroups: JobCgroups, tmp_path: Path
) -> None:
    put(tmp_path, "oar/alice_42/lxc", os.getpid(), os.getppid())
    assert job_processes(belongings(cgroups, Whose(os.getuid(), NOBODY))) == set()


def test_what_is_dead_already_is_not_found(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn
) -> None:
    process = spawn(["true"])
    assert wait_until(lambda: is_zombie(process.pid))
    gone = subprocess.Popen(["true"])
    gone.wait()
    put(tmp_path, "oar/alice_42/lxc", process.pid, gone.pid)
    assert job_processes(belongings(cgroups, Whose(os.getuid(), NOBODY))) == set()


def test_whatever_runs_under_the_jobs_ids_belongs_to_it(cgroups: JobCgroups, spawn: Spawn) -> None:
    first, become = os.getuid(), []
    if first == 0:  # no range starts there
        first = NOBODY
        become = ["setpriv", "--reuid", str(first + COUNT - 1), "--clear-groups"]
    pid = spawn([*become, "sleep", "60"]).pid
    assert wait_until(lambda: pid in job_processes(belongings(cgroups, Whose(-1, first))))
    assert pid not in job_processes(belongings(cgroups, Whose(-1, first + COUNT)))


def test_those_that_are_found_are_held_and_no_others(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn
) -> None:
    inside, outside = spawn(["sleep", "60"]), spawn(["sleep", "60"])
    put(tmp_path, "oar/alice_42/lxc", inside.pid)
    before = len(os.listdir("/proc/self/fd"))
    with Handles() as handles:
        found = job_processes(belongings(cgroups, Whose(-1, NOBODY)), handles)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        handles.kill([*found, outside.pid])
        handles.wait(Deadline.after(5))
    assert is_zombie(inside.pid)
    assert not is_zombie(outside.pid)


def test_a_search_leaves_open_files_for_its_own_reads(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn
) -> None:
    """A user can have more processes than root's program may have open files."""
    inside = [spawn(["sleep", "60"]) for _ in range(80)]
    put(tmp_path, "oar/alice_42/lxc", *(process.pid for process in inside))
    others = [os.open(tmp_path, os.O_RDONLY) for _ in range(100)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, limits[1]))
    try:
        while found := job_processes(belongings(cgroups, Whose(-1, NOBODY))):
            with Handles() as handles:
                assert job_processes(belongings(cgroups, Whose(-1, NOBODY)), handles) == found
                handles.kill(found)
                handles.wait(Deadline.after(5))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in others:
            os.close(fd)
    assert all(is_zombie(process.pid) for process in inside)


def test_a_search_for_what_can_be_killed_does_not_wait_for_all(
    cgroups: JobCgroups, tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AT_MOST", 2)
    put(tmp_path, "oar/alice_42/lxc", *(spawn(["sleep", "60"]).pid for _ in range(3)))
    with Handles() as handles:
        assert len(job_processes(belongings(cgroups, Whose(-1, NOBODY)), handles)) == 2
    assert len(job_processes(belongings(cgroups, Whose(-1, NOBODY)))) == 3


def is_kthreadd(pid: int) -> bool:
    path = Path(f"/proc/{pid}/comm")
    return path.exists() and path.read_text() == "kthreadd\n"


def test_what_the_kernel_runs_for_itself_is_nobodys(cgroups: JobCgroups, tmp_path: Path) -> None:
    # A container sees none of them, and there 2 is anybody's number.
    told = subprocess.run(["ps", "--ppid", "2", "-o", "pid="], stdout=subprocess.PIPE, check=False)
    seen = told.stdout.split() if is_kthreadd(2) else []
    put(tmp_path, "oar/alice_42/lxc", *map(int, seen))
    assert job_processes(belongings(cgroups, Whose(-1, NOBODY))) == set()
