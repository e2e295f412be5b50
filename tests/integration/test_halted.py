"""Who is held still by a destroy that is killed goes on, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.linux.run import run
from oar_lxc.root import halted
from tests.integration.attacks import INJECT_AND_FORK, WAITING, attack, bystander, freezer
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout

# A destroy's own standstill, in which its process is killed.
KILLED = """
import os, pwd, signal, sys
sys.path.insert(0, sys.argv[1])
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.id_allocation import find_whose
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.standstill import standstill
job, user, cgroup, how = int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
uid = pwd.getpwnam(user).pw_uid
layout, cgroups = JobLayout(job), JobCgroups(job, user, cgroup)
belongings = Belongings(layout, cgroups, find_whose(layout, uid, 0))
with cgroups.frozen(), standstill(belongings):
    os.kill(os.getpid(), how)
"""


def be_killed(job: PretendJob, how: signal.Signals = signal.SIGKILL) -> None:
    """Be killed in a standstill for the sake of a job."""
    argv = [PYTHON, "-c", KILLED, str(checkout()), str(job.id), job.user, job.cgroup, f"{how:d}"]
    assert run(argv, check=False).status == -how


def state(pid: int) -> str:
    """Return the state of a process, as proc(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def frozen(job: PretendJob) -> str:
    """Return whether OAR's cgroup of a job is frozen."""
    return (CGROUPS / "freezer" / job.cgroup[1:] / "freezer.state").read_text().strip()


@contextmanager
def stopped(user: str) -> Iterator[int]:
    """Run a process that its user has stopped."""
    with bystander(user) as pid:
        while state(pid) != "S":
            time.sleep(0.001)
        subprocess.run(["kill", "-STOP", str(pid)], check=True)
        while state(pid) != "T":
            time.sleep(0.001)
        yield pid


def next_destroy(job: PretendJob) -> None:
    job.destroy()


def reaper(job: PretendJob) -> None:
    run([PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "reap"], check=False)


@pytest.mark.parametrize("mend", [next_destroy, reaper])
def test_what_a_killed_destroy_holds_still_is_let_go_by_whoever_comes_next(
    make_job: Callable[[], PretendJob], mend: Callable[[PretendJob], None]
) -> None:
    job, other, third = make_job(), make_job(), make_job()
    with (
        attack(other, WAITING) as (theirs, _),
        bystander(job.user) as pid,
        stopped(job.user) as at_rest,
    ):
        be_killed(job)
        assert (state(pid), frozen(other), frozen(job)) == ("T", "FROZEN", "FROZEN")
        assert list(halted.PLACE.iterdir())
        mend(third)
        assert state(pid) == "S"
        assert state(at_rest) == "T"  # its user has stopped it
        assert (frozen(other), frozen(job)) == ("THAWED", "THAWED")
        assert state(theirs.pid) == "S"
        assert not list(halted.PLACE.iterdir())


def test_what_another_destroy_holds_still_while_it_lives_stays_so(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    with bystander(job.user) as pid:
        argv = [PYTHON, "-c", KILLED, str(checkout()), str(job.id), job.user, job.cgroup]
        with subprocess.Popen([*argv, f"{signal.SIGSTOP:d}"]) as process:
            try:
                while state(process.pid) != "T":
                    assert process.poll() is None
                    time.sleep(0.005)
                reaper(other)
                assert state(pid) == "T"
            finally:
                process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
        assert state(pid) == "S"


def test_a_destroy_that_is_killed_while_it_holds_a_user_still_is_mended_by_the_next(
    make_job: Callable[[], PretendJob],
) -> None:
    """The command itself, from outside, in the moment in which somebody is still."""
    job, other = make_job(), make_job()
    argv = [PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "destroy", "--job", str(job.id)]
    argv += ["--user", job.user, "--cgroup", job.cgroup]
    with attack(other, INJECT_AND_FORK, freezer(job)), bystander(job.user) as pid:
        time.sleep(0.3)
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
            while state(pid) != "T" and process.poll() is None:
                time.sleep(0.0005)
            process.kill()
        if process.returncode == -signal.SIGKILL:  # else it was faster
            assert job.destroy().status == 0
        assert state(pid) == "S"
    other.destroy()
