"""Processes that would not die, and those that must not: what a hostile user has running."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import kernel
from tests.integration.attacks import (
    OWN_ID,
    as_root_inside,
    assert_gone,
    attack,
    bystander,
    lives,
)
from tests.integration.conftest import published
from tests.integration.nodes import oar_cgroups
from tests.pretend import CGROUPS, PYTHON, PretendJob

STOPPED = """
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
tell(pid)
os.kill(os.getpid(), signal.SIGSTOP)
"""
VFORKED = """
CLONE_VFORK, SYS_clone = 0x4000, 56
if os.uname().machine != "x86_64":
    SYS_clone = 220
if libc.syscall(SYS_clone, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    tell(os.getppid())
    while True: time.sleep(60)
"""
LEADERLESS = """
SYS_exit = 60 if os.uname().machine == "x86_64" else 93
def last():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    tell(os.getpid())
    time.sleep(600)
threading.Thread(target=last).start()
libc.syscall(SYS_exit, 0)
"""
TRACED = """
PTRACE_TRACEME = 0
pid = os.fork()
if pid == 0:
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, 0)
tell(pid)
signal.pause()
"""
RENAMERS = """
for number in range(3):
    if os.fork() == 0:
        break
else:
    number = 3
roads = [(f"{root}/a{number}", f"{root}/b{number}") for root in sys.argv[1:]]
for road, _ in roads:
    os.mkdir(road)
    with open(f"{road}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
tell(os.getpid())
def swap(one, other):
    with contextlib.suppress(OSError): os.rename(one, other)
while True:
    for there, back in roads: swap(there, back)
    for there, back in roads: swap(back, there)
"""
FORKING = """
tell(os.getpid())
for _ in range(6):
    if os.fork() == 0: break
while True:
    try:
        if os.fork() != 0: os._exit(0)
    except OSError: pass
"""


@pytest.mark.parametrize("code", [STOPPED, VFORKED, LEADERLESS, TRACED], ids=lambda x: "")
def test_a_process_in_a_strange_state_is_destroyed(job: PretendJob, code: str) -> None:
    with attack(job, code) as (_, line):
        assert lives(int(line))
        assert_gone(job)
        assert not lives(int(line))


def test_processes_whose_cgroups_change_their_names_all_the_time_are_destroyed(
    job: PretendJob,
) -> None:
    """Whoever lists a directory and then opens what it listed does not find them."""
    groups = published(job).cgroups
    with attack(job, RENAMERS, *groups) as (process, _):
        seen, until = set(os.listdir(groups[0])), time.monotonic() + 30
        while not {"a0", "b0"} <= seen and time.monotonic() < until:
            seen.update(os.listdir(groups[0]))
        assert {"a0", "b0"} <= seen
        assert_gone(job)
        assert process.wait(5) == -9


def test_processes_that_fork_where_no_limit_holds_are_destroyed(job: PretendJob) -> None:
    """In OAR's cgroup, outside of what is delegated, nobody limits their number."""
    tasks = CGROUPS / "freezer" / job.cgroup[1:] / "tasks"  # all at one moment
    with attack(job, FORKING) as (process, _):
        process.wait(5)
        assert tasks.read_text()
        assert_gone(job)
        assert not tasks.read_text()


TRACE_FROM_OUTSIDE = """
PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x4206, 0x40
pid = int(sys.argv[1])
assert libc.ptrace(PTRACE_SEIZE, pid, None, PTRACE_O_TRACEEXIT) == 0, ctypes.get_errno()
tell(pid)
signal.pause()
"""


def test_a_tracer_in_another_job_keeps_no_process_from_dying(
    make_job: Callable[[], PretendJob],
) -> None:
    """Killed, a process can wait for its tracer before it is gone, and cannot be killed again."""
    job, other = make_job(), make_job()
    waiting = "tell(os.getpid()); signal.pause()"
    with (
        attack(job, waiting) as (_, pid),
        attack(other, waiting) as (innocent, _),
        attack(other, TRACE_FROM_OUTSIDE, pid),
    ):
        assert "\nTracerPid:\t0\n" not in kernel.read(f"/proc/{pid}/status")
        assert_gone(job)
        assert not lives(int(pid))
        assert innocent.poll() is None


# The other job's program has a user namespace with the first job's ids, and its user's own id.
KEEP_IDS = (
    OWN_ID
    + """
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 4
SYS_setresuid = 117 if os.uname().machine == "x86_64" else 147
assert libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
kind = sys.argv[1]
if kind == "effective":
    os.setresuid(OWN, 0, 0)
elif kind == "saved":
    os.setresuid(OWN, OWN, 0)
elif kind == "thread":
    there = threading.Event()
    threading.Thread(target=lambda: (there.set(), time.sleep(600)), daemon=True).start()
    there.wait()
    libc.syscall(SYS_setresuid, OWN, OWN, OWN)
else:
    os.setresuid(OWN, OWN, OWN)
tell(os.getpid())
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
os.setresuid(0, 0, 0)
signal.pause()
"""
)


@pytest.mark.parametrize("kind", ["effective", "saved", "thread", "dormant"])
def test_nothing_keeps_the_ids_of_a_job_that_has_ended(
    make_job: Callable[[], PretendJob], kind: str
) -> None:
    """The next job with these ids is another user's, and its containers' root would be ours."""
    job, other = make_job(), make_job()
    start = Path(f"/tmp/oar-lxc-test-become-{other.id}")
    try:
        with attack(other, KEEP_IDS, kind, str(start), before=as_root_inside(job)) as (_, pid):
            assert lives(int(pid))
            assert_gone(job)
            start.touch()
            time.sleep(0.2)
            assert not lives(int(pid)), kernel.read(f"/proc/{pid}/status")
    finally:
        start.unlink(missing_ok=True)


def test_what_the_user_has_outside_of_the_job_lives_on(
    make_job: Callable[[], PretendJob], other_user: str
) -> None:
    job, other = make_job(), make_job()
    waiting = "tell(os.getpid()); signal.pause()"
    with (
        bystander(job.user) as login,
        bystander(other_user),
        attack(other, waiting) as (_, pid),
        attack(job, waiting),
    ):
        assert_gone(job)
        assert lives(int(pid))
        assert lives(login)


# What may be tried on a process of root, or of another user, in the same cgroup of OAR.
HARM = """
import resource
pid, group = int(sys.argv[1]), sys.argv[2]
done = []
def attempt(name, act):
    try:
        if act() == -1: return
    except OSError:
        return
    done.append(name)
def seized():
    return libc.ptrace(0x4206, pid, None, None)
def written():
    with open(f"{group}/cgroup.procs", "w") as procs: procs.write(str(pid))
os.makedirs(group, exist_ok=True)
attempt("ptrace", seized)
attempt("mem", lambda: open(f"/proc/{pid}/mem", "r+b").close())
attempt("environ", lambda: open(f"/proc/{pid}/environ", "rb").close())
attempt("fd", lambda: os.listdir(f"/proc/{pid}/fd"))
attempt("cwd", lambda: os.stat(f"/proc/{pid}/cwd/."))
attempt("prlimit", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
attempt("affinity", lambda: os.sched_setaffinity(pid, [0]))
attempt("oom", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
attempt("move", written)
for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
    attempt(number.name, lambda: os.kill(pid, number))
attempt("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 0))
tell("done", *done)
"""


@pytest.mark.parametrize("as_containers_root", [False, True])
def test_processes_of_root_and_of_others_cannot_be_harmed(
    job: PretendJob, other_user: str, as_containers_root: bool
) -> None:
    group = CGROUPS / "freezer" / job.cgroup[1:] / "lxc" / "trap"
    before = as_root_inside(job) if as_containers_root else ()
    with (
        bystander("root", "sleep", "601") as root,
        bystander(other_user) as other,
        attack(job, "tell(os.getpid()); signal.pause()") as (_, own),
    ):
        for controller in oar_cgroups(job):
            Path(controller, "cgroup.procs").write_text(str(root))  # as hooks of OAR are
        for pid in (root, other):
            with attack(job, HARM, str(pid), str(group), before=before) as (_, line):
                assert line == "done"
            assert "/trap" not in kernel.read(f"/proc/{pid}/cgroup")
        if not as_containers_root:  # the same works where it may
            with attack(job, HARM, own, str(group)) as (_, line):
                assert {"mem", "move", "SIGKILL"} <= set(line.split())
        done = job.node_side("destroy", check=False)
        assert (done.status, done.stderr) == (0, "")
        for controller in oar_cgroups(job):
            Path(controller).parent.joinpath("cgroup.procs").write_text(str(root))


def test_locks_of_the_root_side_cannot_be_opened(job: PretendJob) -> None:
    """Whoever could open them could hold up every job of the node."""
    paths = [*map(str, Path("/run").glob("oar-lxc*.lock"))]
    assert len(paths) > 1
    for path in paths:
        for mode in ("r", "r+"):
            assert job.run([PYTHON, "-c", f"open({path!r}, {mode!r})"]).status != 0, path
