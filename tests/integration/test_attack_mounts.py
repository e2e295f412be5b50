"""Mounts as a weapon: a user's own over the job's directory, and FUSE, which answers never."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.integration.attacks import Canary, as_root_inside, assert_gone, attack, canary_of, lives
from tests.integration.conftest import containers_of, next_id
from tests.pretend import PretendJob, pretend_job


@pytest.fixture
def canary(other_user: str) -> Iterator[Canary]:
    """Return another user's directory; afterwards nothing of it may have changed."""
    with canary_of(other_user) as canary:
        yield canary
        canary.assert_untouched()


# In a mount namespace of the user's own, where what is mounted is seen by nobody else.
MOUNTS = """
import subprocess
place, canary, directory = sys.argv[1:4]
def mount(*argv):
    return subprocess.run(["mount", *argv], stderr=subprocess.DEVNULL).returncode == 0
made = 0
for number, source in enumerate((canary, "/etc", "/", "/proc", "/sys/fs/cgroup")):
    for flag in ("--bind", "--rbind"):
        target = f"{place}/over {number}{flag}"
        os.mkdir(target)
        made += mount(flag, source, target)
for name in ("tmp", "a\\tb", "n\\nl", "back\\\\slash"):
    target = f"{place}/{name}"
    os.mkdir(target)
    made += mount("-t", "tmpfs", "none", target)
    made += mount("--bind", canary, target)
for name in ("low", "up", "work", "merged"):
    os.mkdir(f"{place}/{name}")
made += mount("-t", "overlay", "none", f"{place}/merged", "-o",
              f"userxattr,lowerdir={canary},upperdir={place}/up,workdir={place}/work")
mount("-t", "autofs", "none", f"{place}/low", "-o", "fd=0,pgrp=1,minproto=5,maxproto=5,direct")
os.chdir(place + "/merged")
made += mount("--bind", "/etc", directory + "/images")
made += mount("--bind", canary, directory)
tell(made)
signal.pause()
"""


@pytest.mark.parametrize("from_outside", [False, True])
def test_what_is_mounted_in_a_namespace_of_the_users_own_is_not_followed(
    make_job: Callable[[], PretendJob], canary: Canary, from_outside: bool
) -> None:
    job, other = make_job(), make_job()
    layout = JobLayout(job.id)
    unshare = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared")
    arguments = [str(containers_of(job)), str(canary.path), str(layout.directory)]
    arguments = [path.replace("/jobs/", "/jobs//") for path in arguments]
    by = other if from_outside else job
    with attack(by, MOUNTS, *arguments, before=unshare) as (process, made):
        assert int(made) >= 12
        assert canary.path.name in kernel.read(f"/proc/{process.pid}/mountinfo")
        assert_gone_here(job)
        assert (process.poll() is None) == from_outside
    canary.assert_untouched()


def assert_gone_here(job: PretendJob) -> None:
    """Destroy a job; in this mount namespace nothing is left, nor on disk."""
    assert job.node_side("destroy", "--deadline", "8").status == 0
    layout = JobLayout(job.id)
    assert not layout.directory.exists()
    assert not layout.record.exists()
    assert str(layout.directory) not in kernel.read("/proc/self/mountinfo")


# Whoever may run fusermount mounts in everybody's namespace. It answers, as in linux/fuse.h.
FUSE = """
import errno, socket, struct, subprocess
point, silent = sys.argv[1:3]
ours, theirs = socket.socketpair()
environ = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
os.makedirs(point, exist_ok=True)
argv = ["fusermount3", "-o", "fsname=hostile", "--", point]
done = subprocess.run(argv, env=environ, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
assert done.returncode == 0, done.stderr
_, (fuse,), _, _ = socket.recv_fds(ours, 1, 1)
INIT, LOOKUP, GETATTR, OPENDIR, ACCESS, STATFS = 26, 1, 3, 27, 34, 17
asked = threading.Event()
def attributes(node):
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, 0o40777, 2, os.getuid(),
                       os.getgid(), 0, 4096, 0)
def serve():
    while True:
        data = os.read(fuse, 1 << 18)
        size, operation, unique, node = struct.unpack_from("<IIQQ", data)
        if operation == INIT:
            body = struct.pack("<4I2H6I7I", 7, 31, 1 << 16, 0, 12, 9, 1 << 16, 1, 0, 0, 0, 0,
                               *[0] * 7)[:64]
        elif silent == "silent":
            asked.set()
            continue
        elif operation == LOOKUP:
            body = struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
        elif operation == GETATTR:
            body = struct.pack("<QII", 0, 0, 0) + attributes(node)
        elif operation in (OPENDIR,):
            body = struct.pack("<QII", 1, 0, 0)
        elif operation == ACCESS:
            body = b""
        else:
            os.write(fuse, struct.pack("<IiQ", 16, -errno.ENOSYS, unique))
            continue
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
threading.Thread(target=serve, daemon=True).start()
"""


# Mounts without a server: what is there is not asked for anything.
MOUNT_MANY = """
import socket, subprocess
kept = []
def mount(point):
    ours, theirs = socket.socketpair()
    environ = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
    os.makedirs(point, exist_ok=True)
    argv = ["fusermount3", "-o", "fsname=hostile", "--", point]
    done = subprocess.run(argv, env=environ, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    kept.append(socket.recv_fds(ours, 1, 1)[1])
"""

FUSE_DEVICE = Path("/dev/fuse")


@pytest.fixture
def fuse() -> Iterator[None]:
    """Let everybody use FUSE, as udev does; afterwards no mount of these tests may be left."""
    lock = os.open("/dev", os.O_RDONLY)  # other runs of these tests do the same
    fcntl.flock(lock, fcntl.LOCK_EX)
    mode = FUSE_DEVICE.stat().st_mode & 0o7777
    FUSE_DEVICE.chmod(0o666)
    yield
    FUSE_DEVICE.chmod(mode)
    os.close(lock)
    for line in reversed(fuse_points().splitlines()):
        subprocess.run(["umount", "--lazy", line.split(" ")[4]], check=False)


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize(
    ("silent", "from_outside"), [("silent", False), ("silent", True), ("answering", True)]
)
def test_a_fuse_mount_in_the_jobs_directory_holds_nothing_up(
    make_job: Callable[[], PretendJob], silent: str, from_outside: bool
) -> None:
    """Its server runs in the job, or in another one of the same user, which lives on."""
    job, other = make_job(), make_job()
    point = str(containers_of(job) / "fuse").replace("/jobs/", "/jobs//")
    with attack(
        other if from_outside else job,
        FUSE + "tell('mounted'); signal.pause()",
        point,
        silent,
    ) as (process, _):
        assert f"{JobLayout(job.id).directory}/" in fuse_points()
        assert_gone_here(job)
        assert (process.poll() is None) == from_outside
        assert fuse_points() == ""


# Mounted first, and so unmounted last by whoever goes backwards: time to put a link in its place.
SWAP = """
import select
base, victim = sys.argv[1:3]
mount(f"{base}/a/{os.path.basename(victim)}")
for number in range(40):
    mount(f"{base}/b/{number}")
os.symlink(os.path.dirname(victim), f"{base}/link")
table = open("/proc/self/mountinfo", "rb")
def count():
    table.seek(0)
    return table.read().count(b" - fuse hostile ")
before = count()
poll = select.poll()
poll.register(table, select.POLLPRI | select.POLLERR)
tell(before)
while count() == before:
    poll.poll(1000)
libc.renameat2(-100, f"{base}/a".encode(), -100, f"{base}/link".encode(), 2)  # RENAME_EXCHANGE
signal.pause()
"""


@pytest.fixture
def victim() -> Iterator[Path]:
    """Return a mount of the node's own."""
    path = Path(f"/run/oar-lxc-test-{os.getpid()}/precious")
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
    shutil.rmtree(path.parent)


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("of_an_older_version", [False, True])
def test_only_what_is_the_jobs_is_unmounted_wherever_directories_are_moved(
    make_job: Callable[[], PretendJob], victim: Path, of_an_older_version: bool
) -> None:
    """Another job of the user exchanges a directory for a link while the job is destroyed."""
    job, other = make_job(), make_job()
    directory = JobLayout(job.id).directory
    if of_an_older_version:  # whose directory was no mount of its own
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
    base = str(containers_of(job)).replace("/jobs/", "/jobs//")
    with attack(other, MOUNT_MANY + SWAP, base, str(victim)) as (_, before):
        assert int(before) >= 41
        job.node_side("destroy", "--deadline", "8", check=of_an_older_version is False)
        assert victim.is_mount()
        if not of_an_older_version:
            assert not directory.exists()
            assert fuse_points() == ""
    assert victim.is_mount()


# In the user's own home, from any process: sshfs does the same.
RESTLESS = """
home = os.path.expanduser("~")
for number in range(6):
    mount(f"{home}/d{number}/x")
tell("mounted")
while True:
    for one, other in (("d", "e"), ("e", "d")):
        for number in range(6):
            os.rename(f"{home}/{one}{number}", f"{home}/{other}{number}")
"""


@pytest.mark.usefixtures("fuse")
def test_mounts_of_a_user_below_a_tree_are_nothing_to_others(
    make_job: Callable[[], PretendJob], other_user: str
) -> None:
    """They are not in others' jobs, switch off no id mapping there, and hold no destroying up."""
    home = Path(pwd.getpwnam(other_user).pw_dir)
    with (
        attack(make_job(), MOUNT_MANY + RESTLESS),
        pretend_job(next_id(), other_user) as bobs,
    ):
        trees = JobLayout(bobs.id).trees
        table = kernel.read("/proc/self/mountinfo").splitlines()
        lines = [line for line in table if str(trees) in line]
        assert [line.split(" ")[4] for line in lines] == [str(trees / "0")]
        assert "idmapped" in lines[0].split(" ")[5]
        touch = ["touch", f"{trees}/0/{home.relative_to('/home')}/by-root"]
        done = bobs.run([*as_root_inside(bobs), *touch])
        assert "Value too large" in done.stderr
        assert not (home / "by-root").exists()
        begin = time.monotonic()
        assert_gone_here(bobs)
        assert time.monotonic() - begin < 8


def fuse_points() -> str:
    """Return the lines of FUSE mounts in this mount namespace."""
    lines = kernel.read("/proc/self/mountinfo").split("\n")
    return "\n".join(line for line in lines if "hostile" in line)


ASK = """
pid = os.fork()
if pid == 0:
    os.closerange(0, 3)
    os.stat(sys.argv[1] + "/x")
    os._exit(0)
tell(pid)
signal.pause()
"""


@pytest.mark.usefixtures("fuse")
def test_a_process_that_waits_for_a_fuse_server_of_another_job_is_destroyed(
    make_job: Callable[[], PretendJob],
) -> None:
    """Not even SIGKILL ends the wait for a request that the server has read."""
    job, other = make_job(), make_job()
    point = Path("/tmp") / f"oar-lxc-test-fuse-{other.id}"
    point.mkdir()
    shutil.chown(point, other.user)
    code = FUSE + "tell('mounted')\nasked.wait()\nsignal.pause()"
    try:
        with (
            attack(other, code, str(point), "silent") as (_, _),
            attack(job, ASK, str(point)) as (_, pid),
        ):
            wait_for_state(int(pid), "DS")
            assert_gone(job)
            assert not lives(int(pid))
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)
        with suppress(OSError):
            point.rmdir()


def wait_for_state(pid: int, states: str) -> None:
    end = time.monotonic() + 30
    while kernel.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in states:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)


def test_a_mount_namespace_with_the_jobs_overlay_outlives_nobody(
    make_job: Callable[[], PretendJob],
) -> None:
    """Another job of the same user keeps the namespace of a container, with its root on it."""
    job, other = make_job(), make_job()
    images = JobLayout(job.id).images
    code = "os.chdir(sys.argv[1]); fd = os.open('.', os.O_RDONLY); tell(fd); signal.pause()"
    before = as_root_inside(other)
    with attack(other, code, str(images).replace("/jobs/", "/jobs//"), before=before):
        assert_gone_here(job)
        assert not images.exists()
    assert os.path.lexists(images.parent) is False
