"""Killed processes that cannot die by themselves: frozen, without time of a CPU, not collected."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.attacks import as_root_inside, assert_gone, attack, lives
from tests.pretend import CGROUPS, PYTHON, PretendJob

# Goes into a new cgroup and is another program from then on.
ENTER = """
os.mkdir(group := sys.argv[1])
with open(f"{group}/cgroup.procs", "w") as procs: procs.write("0")
os.execvp(sys.argv[2], sys.argv[2:])
"""
LIVE = "import os, signal; print(os.getpid(), flush=True); signal.pause()"


def _group(job: PretendJob, controller: str) -> str:
    """Return a new cgroup's path in a delegated one of a job."""
    return str(CGROUPS / controller / job.cgroup[1:] / "lxc/odd")


def test_a_frozen_cgroup_of_another_job_keeps_nobody_alive(
    make_job: Callable[[], PretendJob],
) -> None:
    """Its user goes into it before taking an id of the job that ends."""
    job, other = make_job(), make_job()
    group = _group(other, "freezer")
    inside = [*as_root_inside(job), PYTHON, "-c", LIVE]
    with attack(other, ENTER, group, *inside) as (_, pid):
        freeze = other.run(["sh", "-c", f"echo FROZEN > {group}/freezer.state"])
        assert (freeze.status, freeze.stderr) == (0, "")
        assert lives(int(pid))
        assert_gone(job)
        assert not lives(int(pid))


THROTTLE = """
os.mkdir(group := sys.argv[1])
def write(name, text):
    with open(f"{group}/{name}", "w") as file: file.write(text)
write("cgroup.procs", "0")
for _ in range(100):
    if os.fork() == 0:
        memory = bytearray(20 << 20)
        while True: pass
tell(os.getpid())
write("cpu.cfs_period_us", "1000000")
write("cpu.cfs_quota_us", "1000")
while True: pass
"""


def test_a_hundred_processes_with_a_thousandth_of_a_cpu_die(job: PretendJob) -> None:
    """To die takes some time of a CPU, too."""
    with attack(job, THROTTLE, _group(job, "cpu")) as (_, pid):
        assert_gone(job)
        assert not lives(int(pid))


# A child of this process in the PID namespace of another, whose zombie nobody collects.
BEAR = """
CLONE_PARENT = 0x8000
SYS_clone = 56 if os.uname().machine == "x86_64" else 220
kinds = ("user", "pid_for_children")
handles = [os.open(f"/proc/{sys.argv[1]}/ns/{kind}", os.O_RDONLY) for kind in kinds]
if (helper := os.fork()) == 0:
    for handle in handles:
        assert libc.setns(handle, 0) == 0, ctypes.get_errno()
    if libc.syscall(SYS_clone, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        signal.pause()
    os._exit(0)
for handle in handles: os.close(handle)
os.waitpid(helper, 0)
tell("in")
signal.pause()
"""


def test_a_zombie_that_nobody_collects_keeps_no_pid_namespace(
    make_job: Callable[[], PretendJob],
) -> None:
    """The first process in it waits until all others are gone, also those of parents outside."""
    job, other = make_job(), make_job()
    first = LIVE.replace("os.getpid()", "open('/proc/self/stat').read().split()[0]")
    inside = [*as_root_inside(job), "unshare", "-p", "-f", PYTHON, "-c"]
    with (
        attack(job, "os.execvp(sys.argv[1], sys.argv[1:])", *inside, first) as (_, pid),
        attack(other, BEAR, pid),
    ):
        assert lives(int(pid))
        assert_gone(job)
        assert not lives(int(pid))
