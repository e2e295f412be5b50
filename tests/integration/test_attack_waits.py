"""Waits in the kernel that a user makes and a look at the processes does not tell."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from oar_lxc.linux.run import run
from tests.integration.attacks import (
    OWN_ID,
    WAITING,
    as_root_inside,
    assert_gone,
    attack,
    lives,
    put,
)
from tests.integration.conftest import left, next_id, published
from tests.integration.nodes import assert_reaped, oar_cgroups
from tests.pretend import PYTHON, PretendJob, checkout, pretend_job

# A file system of the other job's containers' root, which answers all but what it is told to keep
# waiting; and processes of the user's that have come to wait for it, in one way or another.
SERVE = (
    OWN_ID
    + """
import struct
signal.alarm(60)  # whatever becomes of the test: all that lists processes waits for this
LOOKUP, GETATTR, MKDIR, OPEN, FLUSH, INIT, OPENDIR = 1, 3, 9, 14, 25, 26, 27
kind, point, device = sys.argv[1:4]
os.makedirs(point, exist_ok=True)
fuse = os.open(device, os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
assert libc.mount(b"hostile", point.encode(), b"fuse", 0, options) == 0, ctypes.get_errno()
def attributes(node):
    mode = 0o40777 if node == 1 else 0o100777
    return struct.pack("<6Q10I", node, 1 << 20, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer(operation, node):
    if operation == INIT:
        numbers = 7, 31, 1 << 16, 0, 12, 9, 1 << 16, 1, *[0] * 11
        return struct.pack("<4I2H6I7I", *numbers)[:64]
    if operation == LOOKUP:
        return struct.pack("<4Q2I", 2, 1, 60, 60, 0, 0) + attributes(2)
    if operation == GETATTR:
        return struct.pack("<Q2I", 60, 0, 0) + attributes(node)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 1, 0, 0)
    return b""
keeps, kept = {"exec": (FLUSH,), "first": (FLUSH,), "lock": (MKDIR,)}[kind], threading.Event()
def serve():
    while True:
        try:
            data = os.read(fuse, 1 << 18)
        except OSError:
            return
        size, operation, unique, node = struct.unpack_from("<IIQQ", data)
        if operation in keeps:
            kept.set()
        if operation in keeps or operation in (2, 36, 42):
            continue
        if kind == "lock" and operation == LOOKUP:
            body, error = b"", -2
        else:
            body, error = answer(operation, node), 0
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
threading.Thread(target=serve, daemon=True).start()
def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            os.close(fuse)  # else it would serve itself
            os.setresgid(OWN, OWN, OWN)
            os.setresuid(OWN, OWN, OWN)
            act()
        finally:
            os._exit(0)
    return pid
def in_exec():
    os.open(f"{point}/file", os.O_RDONLY)
    os.execv("/bin/sleep", ["sleep", "1000"])
if kind != "lock":
    if kind == "first":
        assert libc.unshare(0x20000000) == 0, ctypes.get_errno()  # CLONE_NEWPID
    pid = child(in_exec)
    assert kept.wait(20)
else:
    child(lambda: os.mkdir(f"{point}/a"))
    assert kept.wait(20)
    pid = child(lambda: os.mkdir(f"{point}/b"))
    time.sleep(1)  # nothing shows that it waits for the lock
tell(pid)
signal.pause()
"""
)


@pytest.fixture
def device(job: PretendJob) -> Iterator[str]:
    """Return a device of FUSE as udev makes it, also where this machine's own is closed."""
    path = Path(f"/dev/oar-lxc-test-fuse-{job.id}")
    os.mknod(path, stat.S_IFCHR, os.makedev(10, 229))
    path.chmod(0o666)
    yield str(path)
    path.unlink()


@pytest.fixture
def _no_connections(device: str) -> Iterator[None]:
    """Hide where systemd mounts the control of FUSE, as on a node that does not mount it."""
    os.close(os.open(device, os.O_RDWR))  # loads what makes the directory
    run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/fuse/connections"])
    yield
    run(["umount", "/sys/fs/fuse/connections"])


@contextmanager
def served(job: PretendJob, kind: str, device: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve a file system in a job; give the server, and a process that waits for it."""
    point = Path(f"/tmp/oar-lxc-test-point-{job.id}")
    before = (*as_root_inside(job), "unshare", "--mount")
    try:
        with attack(job, SERVE, kind, str(point), device, before=before) as (server, pid):
            yield server, int(pid)
    finally:
        with suppress(OSError):
            point.rmdir()


@pytest.mark.usefixtures("_no_connections")
@pytest.mark.parametrize("kind", ["exec", "first", "lock"])
def test_who_waits_for_a_file_system_of_the_users_own_dies(
    job: PretendJob, make_job: Callable[[], PretendJob], device: str, kind: str
) -> None:
    """Also where the kernel does not show that it is that which is waited for.

    The first process of a PID namespace waits for others, too: it cannot be looked at either.
    """
    other = make_job()
    with attack(other, WAITING) as (innocent, _), served(other, kind, device) as (server, pid):
        put(job, pid)
        assert_gone(job, 15)
        assert not lives(pid)
        assert innocent.poll() is None
        assert server.poll() is None


def test_who_lets_nobody_look_holds_up_no_other_users_job(
    make_job: Callable[[], PretendJob], other_user: str, device: str
) -> None:
    other = make_job()
    with pretend_job(next_id(), other_user) as bobs:
        first_id = published(bobs).first_id
        with attack(bobs, WAITING) as (process, _), served(other, "exec", device) as (server, pid):
            done = bobs.node_side("destroy", "--deadline", "15", check=False)
            assert (done.status, done.stderr) == (0, "")
            assert process.wait(5) == -9
            assert server.poll() is None
            assert Path(f"/proc/{pid}").exists()
        assert left(bobs, first_id) == {"cgroups": oar_cgroups(bobs)}


def test_who_lets_nobody_look_is_not_known_to_be_harmless_and_not_killed(
    job: PretendJob, make_job: Callable[[], PretendJob], device: str
) -> None:
    """It is of another job of the user's, that one's to kill: no reason to suspect the node."""
    other, first_id = make_job(), published(job).first_id
    with attack(job, WAITING) as (process, _), served(other, "exec", device) as (server, pid):
        done = job.node_side("destroy", "--deadline", "15", check=False)
        assert done.status == 0
        why = "not known: whether the user's other processes hold its ids"
        assert f"{why}: {pid} cannot be looked at" in done.stderr
        assert process.wait(5) == -9
        assert server.poll() is None
        assert Path(f"/proc/{pid}").exists()
    assert_reaped(job, first_id)


def test_who_lets_nobody_look_holds_up_nobody_who_asks_for_an_images_users(
    make_job: Callable[[], PretendJob], device: str
) -> None:
    code = (
        "from oar_lxc.image.uses import uses_of; from oar_lxc.model.image_name import *;"
        "print(uses_of(ImageName.parse('unused')))"
    )
    with served(make_job(), "exec", device):
        done = run([PYTHON, "-c", code], env={"PYTHONPATH": str(checkout())}, timeout=20)
    assert done.stdout == "[]\n"
