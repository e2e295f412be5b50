"""Finding the processes of a job, and killing them: all of these are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from oar_lxc.linux.deadline import Deadline
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import job_cgroups, processes
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.job_cgroups import Hierarchy, JobCgroups
from oar_lxc.root.ownership import Whose
from oar_lxc.root.processes import Handles, is_zombie, job_processes, owner, pids
from oar_lxc.root.ranges import COUNT
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


def kill(found: Sequence[int], seconds: float = 5) -> None:
    """Kill processes as a destroy does."""
    with Handles() as handles:
        for pid in found:
            handles.hold(pid)
        handles.kill(found)
        handles.wait(Deadline.after(seconds))


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


def test_the_owner_of_a_process_is_told(spawn: Spawn) -> None:
    process = spawn(["sleep", "60"])
    assert owner(process.pid) == os.getuid()
    assert owner(2**22 + 1) == -1


def test_a_name_with_brackets_and_newlines_confuses_nobody(spawn: Spawn, tmp_path: Path) -> None:
    program = tmp_path / "x) Z 1\n(y"
    program.symlink_to("/bin/sleep")
    process = spawn([str(program), "60"])
    assert wait_until(lambda: "Z 1" in Path(f"/proc/{process.pid}/comm").read_text())
    assert not is_zombie(process.pid)
    assert owner(process.pid) == os.getuid()


def test_processes_that_ignore_signals_are_killed_all_the_same(spawn: Spawn) -> None:
    code = (
        "import signal, time\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\n"
        "print(flush=True); time.sleep(60)\n"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    stopped = spawn(["sleep", "60"])
    os.kill(stopped.pid, signal.SIGSTOP)
    kill([stubborn.pid, stopped.pid])
    assert is_zombie(stubborn.pid)
    assert is_zombie(stopped.pid)
    stubborn.stdout.close()
    stubborn.wait()


def test_killing_returns_when_they_are_dead_and_not_later(spawn: Spawn) -> None:
    found = [spawn(["sleep", "60"]).pid for _ in range(20)]
    begin = time.monotonic()
    kill(found, 30)
    assert time.monotonic() - begin < 10
    assert all(is_zombie(pid) for pid in found)


def test_only_what_is_held_is_killed(spawn: Spawn) -> None:
    held, dropped, unheld = (spawn(["sleep", "60"]).pid for _ in range(3))
    with Handles() as handles:
        handles.hold(held)
        handles.hold(dropped)
        handles.drop(dropped)
        handles.kill([held, dropped, unheld])
        handles.wait(Deadline.after(5))
    assert [is_zombie(pid) for pid in (held, dropped, unheld)] == [True, False, False]


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


def test_a_number_that_is_another_processs_by_now_is_not_killed(spawn: Spawn) -> None:
    process = spawn(["true"])
    with Handles() as handles:
        handles.hold(process.pid)
        process.wait()
        handles.kill([process.pid])  # whoever has the number now, the handle is of the first
        handles.wait(Deadline.after(5))


def is_kthreadd(pid: int) -> bool:
    path = Path(f"/proc/{pid}/comm")
    return path.exists() and path.read_text() == "kthreadd\n"


def test_what_the_kernel_runs_for_itself_is_nobodys(cgroups: JobCgroups, tmp_path: Path) -> None:
    # A container sees none of them, and there 2 is anybody's number.
    told = subprocess.run(["ps", "--ppid", "2", "-o", "pid="], stdout=subprocess.PIPE, check=False)
    seen = told.stdout.split() if is_kthreadd(2) else []
    put(tmp_path, "oar/alice_42/lxc", *map(int, seen))
    assert job_processes(belongings(cgroups, Whose(-1, NOBODY))) == set()


def test_what_is_gone_is_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    kill([gone.pid, 2**22 + 1])
    kill([])


def test_no_descriptor_is_left_open(spawn: Spawn) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    pid = spawn(["sleep", "60"]).pid
    kill([pid, pid])
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_process_whose_first_thread_has_ended_is_not_dead() -> None:
    code = "import ctypes, threading, time\n"
    code += "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    code += "print('up', flush=True)\nctypes.CDLL(None).pthread_exit(None)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 10
        while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not is_zombie(process.pid)
    finally:
        process.kill()
        process.communicate()
