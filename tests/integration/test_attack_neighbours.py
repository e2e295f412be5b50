"""What a second job of the same user, on the same node, does to keep the first one alive."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.container.lxc_config import LXCFS
from oar_lxc.linux import process
from oar_lxc.model.placement import V1
from oar_lxc.root import namespaces
from oar_lxc.root.job_cgroups import JobCgroups
from tests.integration.attacks import (
    INJECT_AND_FORK,
    OWN_ID,
    WAITING,
    as_root_inside,
    assert_gone,
    attack,
    bystander,
    freezer,
    lives,
    put,
)
from tests.integration.lxcfs import running_lxcfs
from tests.pretend import CGROUPS, PYTHON, PretendJob, checkout
from tests.unit.fakes.programs import wait_until

# Goes on putting new children into another job's cgroup, by a file opened while it could.
INJECT = """
path, kind = sys.argv[1:3]
if kind == "nested":
    os.mkdir(f"{path}/x")
    path += "/x"
fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY)
if kind == "queued":
    import socket
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [fd])
    os.close(fd)
def write(pid):
    global fd
    if kind == "queued":
        _, (fd,), _, _ = socket.recv_fds(other, 1, 1)
    try:
        os.write(fd, str(pid).encode())
    finally:
        if kind == "queued":
            socket.send_fds(one, [b"x"], [fd])
            os.close(fd)
def orphan():
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        os.setsid()
        if (pid := os.fork()) != 0:
            os.write(theirs, str(pid).encode())
            os._exit(0)
        signal.pause()
    os.waitpid(pid, 0)
    pid = int(os.read(ours, 20))
    os.close(ours)
    os.close(theirs)
    return pid
number = 1 if kind == "queued" else 3
for _ in range(number):
    if os.fork() == 0:
        while True:
            pid = orphan()
            try:
                write(pid)
            except OSError as error:
                os.kill(pid, signal.SIGKILL)
                if error.errno == 19: os._exit(0)
            time.sleep(0 if kind == "plain" else 0.001)
tell(os.getpid())
signal.pause()
"""


@pytest.mark.parametrize("kind", ["plain", "nested", "queued"])
def test_nobody_goes_on_putting_processes_into_a_job_that_ends(
    make_job: Callable[[], PretendJob], kind: str
) -> None:
    """Not by a file that was opened while the job lived, wherever that is kept."""
    job, other = make_job(), make_job()
    members = Path(freezer(job), "x" if kind == "nested" else "", "cgroup.procs")
    with (
        attack(other, WAITING) as (innocent, _),
        bystander(job.user),
        attack(other, INJECT, freezer(job), kind) as (writer, _),
    ):
        until = time.monotonic() + 30
        while len(members.read_text().split()) < 20:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert_gone(job)
        assert innocent.poll() is None
        assert writer.poll() is None  # it holds what is good for nothing any more
        assert (
            not Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].startswith(" T")
        )


def test_writers_that_fork_without_a_rest_do_not_keep_a_job(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    with attack(other, INJECT_AND_FORK, freezer(job)):
        time.sleep(0.3)
        assert_gone(job)
    other.destroy()


def test_what_is_taken_back_cannot_be_opened_again(job: PretendJob) -> None:
    """Where the end of a destroy is late, nobody gets in anew meanwhile."""
    for name in ("cgroup.procs", "tasks", "x/cgroup.procs"):
        opens = f"import os; os.open({freezer(job) + '/' + name!r}, os.O_WRONLY)"
        assert job.run(["mkdir", "-p", f"{freezer(job)}/x"]).status == 0
        assert job.run([PYTHON, "-c", opens]).status == 0
        JobCgroups(job.id, job.user, job.cgroup).take_back()
        assert "PermissionError" in job.run([PYTHON, "-c", opens]).stderr
        uid = pwd.getpwnam(job.user).pw_uid
        JobCgroups(job.id, job.user, job.cgroup).delegate(V1, uid, 0)


# Traces, as the other job's containers' root would, a process of the user's.
TRACE_UNDER_OTHER_IDS = (
    OWN_ID
    + """
pid = os.fork()
if pid == 0:
    os.setresgid(OWN, OWN, OWN)
    os.setresuid(OWN, OWN, OWN)
    os.execv("/bin/sleep", ["sleep", "1000"])
while "sleep" not in open(f"/proc/{pid}/comm").read(): time.sleep(0.01)
def seize(pid):
    assert libc.ptrace(0x4206, pid, None, 0x40) == 0, ctypes.get_errno()
seize(pid)
tell(pid)
if os.fork() == 0:  # who traces the tracer holds both
    seize(os.getppid())
    tell(os.getpid())
signal.pause()
"""
)


def test_a_tracer_under_the_ids_of_another_job_keeps_no_process_from_dying(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    before = as_root_inside(other)
    with (
        attack(other, WAITING, before=before) as (innocent, _),
        attack(other, TRACE_UNDER_OTHER_IDS, before=before) as (tracer, pid),
    ):
        assert tracer.stdout is not None
        second = tracer.stdout.readline()
        assert lives(int(second))
        put(job, int(pid))
        assert_gone(job)
        assert not lives(int(pid))
        assert innocent.poll() is None


# A file system of the other job's containers' root, in a mount namespace of its own, which never
# answers, and a process of the user's that waits for it.
SERVE = (
    OWN_ID
    + """
import struct
INIT = 26
point, device = sys.argv[1:3]
os.makedirs(point, exist_ok=True)
fuse = os.open(device, os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
assert libc.mount(b"hostile", point.encode(), b"fuse", 0, options) == 0, ctypes.get_errno()
def serve():
    while True:
        try:
            data = os.read(fuse, 1 << 18)
        except OSError:
            return
        size, operation, unique, node = struct.unpack_from("<IIQQ", data)
        if operation == INIT:
            numbers = 7, 31, 1 << 16, 0, 12, 9, 1 << 16, 1, *[0] * 11
            body = struct.pack("<4I2H6I7I", *numbers)[:64]
            os.write(fuse, struct.pack("<IiQ", 80, 0, unique) + body)
threading.Thread(target=serve, daemon=True).start()
pid = os.fork()
if pid == 0:
    os.setresgid(OWN, OWN, OWN)
    os.setresuid(OWN, OWN, OWN)
    os.execv("/bin/sh", ["sh", "-c", f"sleep 1; exec stat {point}/x"])
tell(pid)
signal.pause()
"""
)


def test_a_file_system_of_another_job_holds_nobody_and_lxcfs_is_left_alone(
    make_job: Callable[[], PretendJob],
) -> None:
    """All processes of a node see its lxcfs, and whoever waits may wait for something else."""
    job, other = make_job(), make_job()
    point = f"/tmp/oar-lxc-test-point-{job.id}"
    before = (*as_root_inside(other), "unshare", "--mount")
    # As udev makes it, also where this machine's own is closed.
    device = f"/dev/oar-lxc-test-fuse-{job.id}"
    os.mknod(device, stat.S_IFCHR, os.makedev(10, 229))
    os.chmod(device, 0o666)
    try:
        with (
            running_lxcfs() as lxcfs,
            attack(other, WAITING) as (innocent, _),
            attack(other, SERVE, point, device, before=before) as (_, pid),
        ):
            put(job, int(pid))
            until = time.monotonic() + 30
            while b"fuse" not in Path(f"/proc/{pid}/stack").read_bytes():
                assert time.monotonic() < until
                time.sleep(0.05)
            assert_gone(job, 15)
            assert not lives(int(pid))
            assert innocent.poll() is None
            assert lxcfs.poll() is None
            assert LXCFS.joinpath("proc/uptime").read_text()
    finally:
        Path(point).rmdir()
        Path(device).unlink()


# Enters the user namespace of the job's containers by a file of it; without a word, or on and on.
ENTER = """
kind, path, go, device = sys.argv[1:]
CLONE_NEWUSER = 0x10000000
handle = os.open(path, os.O_RDONLY)
NS_GET_USERNS, SIOCGSKNS = 0xB701, 0x894C
def enter():
    fd = handle
    if kind in ("network", "tap"):
        import fcntl
        fd = fcntl.ioctl(fcntl.ioctl(tap, SIOCGSKNS) if kind == "tap" else handle, NS_GET_USERNS)
    assert libc.setns(fd, CLONE_NEWUSER) == 0, ctypes.get_errno()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
if kind == "tap":  # a device for networks in user space, opened in the namespace
    import socket
    here, there = socket.socketpair()
    if os.fork() == 0:
        network = os.open(path.removesuffix("user") + "net", os.O_RDONLY)
        enter_user = libc.setns(handle, CLONE_NEWUSER)
        assert enter_user == 0 and libc.setns(network, 0) == 0, ctypes.get_errno()
        socket.send_fds(there, [b"x"], [os.open(device, os.O_RDWR)])
        os._exit(0)
    (tap,) = socket.recv_fds(here, 1, 1)[1]
    for file in (here, there): file.close()
    os.close(handle)
    os.wait()
tell(os.getpid())
if kind == "again":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            enter()
            time.sleep(5)
            os._exit(0)
        time.sleep(0.005)
if kind == "dead":
    if (pid := os.fork()) == 0:
        enter()
        libc.prctl(4, 1, 0, 0, 0)  # dumpable: its /proc stays open to its user
        os._exit(0)
    os.close(handle)
    handle = None
while not os.path.exists(go): time.sleep(0.01)
if kind == "dead":
    handle = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
enter()
signal.pause()
"""


@pytest.mark.parametrize("kind", ["quiet", "again", "network", "tap", "dead"])
def test_nobody_comes_back_to_the_ids_of_a_job_that_has_ended(
    make_job: Callable[[], PretendJob], kind: str
) -> None:
    """By a namespace that a process of another job knows of, which has none of the ids itself."""
    job, other = make_job(), make_job()
    go = Path(f"/tmp/oar-lxc-test-go-{job.id}")
    inside = (*as_root_inside(job), "unshare", "--net")
    device = Path(f"/dev/oar-lxc-test-tap-{job.id}")
    os.mknod(device, stat.S_IFCHR, os.makedev(10, 200))
    device.chmod(0o666)
    try:
        with (
            attack(other, WAITING) as (innocent, _),
            attack(job, WAITING, before=inside) as (_, pid),
        ):
            name = "net" if kind == "network" else "user"
            with attack(other, ENTER, kind, f"/proc/{pid}/ns/{name}", str(go), str(device)) as (
                _,
                holder,
            ):
                time.sleep(0.3)
                assert lives(int(holder))
                assert_gone(job)
                go.touch()
                assert wait_until(lambda: not lives(int(holder)))
                assert innocent.poll() is None
    finally:
        go.unlink(missing_ok=True)
        device.unlink()


def test_who_destroys_a_job_from_inside_another_is_not_frozen_with_that(
    make_job: Callable[[], PretendJob],
) -> None:
    """OAR runs epilogues inside their jobs; two at once would freeze each other for good."""
    job, other = make_job(), make_job()
    inside = CGROUPS / "freezer" / other.cgroup[1:]
    line = f'echo $$ >{inside}/cgroup.procs; exec "$@"'
    argv = ["sh", "-c", line, "sh", PYTHON, "-IS", str(checkout() / "oar-lxc-node"), "destroy"]
    argv += ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    with attack(other, INJECT, freezer(job), "plain"), subprocess.Popen(argv) as destroyer:
        try:
            assert destroyer.wait(40) == 0
        finally:
            (inside / "freezer.state").write_text("THAWED")
            destroyer.kill()


STAND_STILL = """
import sys, time
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.main import _forget_caller
from oar_lxc.root.standstill import standstill
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.ownership import Whose
_forget_caller()
job, user, uid = sys.argv[1:]
cgroups = JobCgroups(int(job), user, f"/oar/{user}_{job}")
with standstill(Belongings(JobLayout(int(job)), cgroups, Whose(int(uid), 0))):
    print("still", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_stopped_goes_on_where_the_end_of_a_hook_comes_meanwhile(
    make_job: Callable[[], PretendJob], number: signal.Signals
) -> None:
    job, other = make_job(), make_job()
    state = CGROUPS / "freezer" / other.cgroup[1:] / "freezer.state"
    argv = [PYTHON, "-c", STAND_STILL, str(job.id), job.user, str(pwd.getpwnam(job.user).pw_uid)]
    with (
        bystander(job.user) as pid,
        attack(other, WAITING),
        subprocess.Popen(argv, cwd=checkout(), stdout=subprocess.PIPE, text=True) as hook,
    ):
        try:
            assert hook.stdout is not None
            assert hook.stdout.readline() == "still\n"
            assert process.state(pid) == b"T"
            assert state.read_text().startswith("FR")
            hook.send_signal(number)
            assert hook.wait(10) == 128 + number
            assert process.state(pid) != b"T"
            assert state.read_text() == "THAWED\n"
        finally:
            state.write_text("THAWED")
            os.kill(pid, signal.SIGCONT)


# Stops all that it may, those that look into its namespaces among them. It has many of these.
STOP_THOSE_WHO_LOOK = """
CLONE_NEWUSER = 0x10000000
def enter_new():
    ids = f"0 {os.getuid()} 1", f"0 {os.getgid()} 1"
    assert libc.unshare(CLONE_NEWUSER) == 0, ctypes.get_errno()
    for name, text in zip(("setgroups", "uid_map", "gid_map"), ("deny", *ids)):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
enter_new()
held = []
for _ in range(60):
    ready, tell_ready = os.pipe()
    if (pid := os.fork()) == 0:
        enter_new()
        os.write(tell_ready, b"1")
        signal.pause()
    assert os.read(ready, 1)
    held.append(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
tell(len(held))
end = time.monotonic() + 20
while time.monotonic() < end:
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGSTOP)
"""


def test_who_stops_what_looks_into_namespaces_holds_up_nobody(
    make_job: Callable[[], PretendJob],
) -> None:
    job, other = make_job(), make_job()
    with attack(other, STOP_THOSE_WHO_LOOK):
        assert_gone(job, 40)


def test_who_is_stopped_in_a_namespace_is_in_it() -> None:
    argv = ["unshare", "--user", "sh", "-c", "kill -STOP $$"]
    reader, writer = os.pipe()
    with subprocess.Popen(argv) as child:
        try:
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            handle = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY)
            assert namespaces._has_entered(child.pid, handle, reader)
            os.close(handle)
        finally:
            child.kill()
            os.close(reader)
            os.close(writer)
