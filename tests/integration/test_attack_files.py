"""Files as a weapon: what a hostile user leaves in the job's directory, and swaps meanwhile."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from oar_lxc.model.layout import STATE, JobLayout
from tests.integration.attacks import (
    DEADLINE,
    Canary,
    as_root_inside,
    assert_gone,
    attack,
    canary_of,
    processes_of,
)
from tests.integration.conftest import containers_of, left, published
from tests.integration.nodes import oar_cgroups
from tests.pretend import PretendJob


@pytest.fixture
def canary(other_user: str) -> Iterator[Canary]:
    """Return another user's directory; afterwards nothing of it may have changed."""
    with canary_of(other_user) as canary:
        yield canary
        canary.assert_untouched()


def places(job: PretendJob) -> list[Path]:
    """Return where a job's user may write."""
    return [containers_of(job), JobLayout(job.id).private]


ODD_FILES = """
import resource, socket, struct, fcntl
canary = sys.argv[1]
made, refused = 0, 0
def attempt(act, *arguments):
    global made, refused
    try:
        act(*arguments)
        made += 1
    except OSError:
        refused += 1
names = [b"-rf", b"--", b"..a", b"...", b"a\\nb", b"\\n", b" ", b"'", b'"', b"$(touch x)"]
names += [b"\\xff\\xfe", b"x" * 255, b"\\t", b"\\\\", b"*", b"~", b"-", b"\\x01\\x7f"]
for place in sys.argv[2:]:
    os.chdir(place)
    for name in names:
        os.mkdir(name)
        os.symlink(canary, os.path.join(name, name))
        open(os.path.join(name, b"file"), "w").close()
    for target in (canary, "/etc", "/", "/proc/self/root", "loop", "..", "/dev/zero", "x" * 4000):
        attempt(os.symlink, target, "link" + str(made))
    attempt(os.mkfifo, "fifo")
    listening = socket.socket(socket.AF_UNIX)
    attempt(listening.bind, "socket")
    for mode, device in ((0o020666, (1, 3)), (0o060666, (254, 0)), (0o020666, (0, 0))):
        attempt(os.mknod, "device" + str(made), mode, os.makedev(*device))
    for target in (canary + "/file1", "/etc/hostname", "/etc/shadow"):
        attempt(os.link, target, "hard" + str(made))
    attempt(os.link, canary + "/open", "hard open")
    with open("sparse", "w") as file: attempt(file.truncate, 1 << 42)
    for mode in (0, 0o7777, 0o1000):
        os.mkdir(f"mode{mode}")
        open(f"mode{mode}/file", "w").close()
        os.chmod(f"mode{mode}", mode)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in ((1, 0, -1 & 0xFFFFFFFF), (4, 0, 0xFFFFFFFF),
        (16, 0, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    )
    os.mkdir("acl")
    attempt(os.setxattr, "acl", "system.posix_acl_access", acl)
    attempt(os.setxattr, "acl", "system.posix_acl_default", acl)
    attempt(os.setxattr, "acl", "user." + "x" * 200, b"x" * 3000)
    FS_IOC_SETFLAGS, IMMUTABLE, APPEND = 0x40086602, 0x10, 0x20
    for flag in (IMMUTABLE, APPEND, 0x40, 0x80):
        with open(f"flag{flag}", "w") as file:
            attempt(fcntl.ioctl, file, FS_IOC_SETFLAGS, struct.pack("l", flag))
    for name in os.listdir("."):
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            attempt(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            attempt(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            attempt(fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
fd = os.open(sys.argv[2] + "/../job.json", os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
tell(made, refused)
signal.pause()
"""
ODD_FILES_OF_ROOT = """
os.chdir(sys.argv[1])
os.mkdir("of root")
os.chdir("of root")
for mode in (0, 0o7777):
    os.mkdir(f"{mode}")
    open(f"{mode}/file", "w").close()
    os.chown(f"{mode}/file", 65535, 65535)
    os.chown(f"{mode}", 1000, 1000)
    os.chmod(f"{mode}", mode)
os.setxattr("0", "user.overlay.opaque", b"y")
with contextlib.suppress(OSError): os.mknod("device", 0o020666, os.makedev(0, 0))
tell("made")
"""


def test_odd_files_are_removed_and_what_they_point_at_is_kept(
    job: PretendJob, canary: Canary
) -> None:
    before = as_root_inside(job)
    with attack(job, ODD_FILES_OF_ROOT, str(containers_of(job)), before=before) as (_, line):
        assert line == "made"
    with attack(job, ODD_FILES, str(canary.path), *map(str, places(job))) as (_, line):
        made, refused = map(int, line.split())
        assert made > 60
        assert refused > 12  # hard links to what is not theirs, devices, flags
        os.utime(canary.path / "open", ns=times(canary, canary.path / "open"))
        assert_gone(job)
    assert_only_links(canary, canary.path / "open")


def times(canary: Canary, path: Path) -> tuple[int, int]:
    modified = canary.before[str(path)][4]
    assert isinstance(modified, int)
    return path.stat().st_atime_ns, modified


def assert_only_links(canary: Canary, path: Path) -> None:
    """A file that everybody may write may be linked to, which changes its own time of change."""
    now, then = canary.look()[str(path)], canary.before[str(path)]
    assert now[:5] == then[:5]
    assert now[6:] == then[6:]
    canary.before[str(path)] = now


DEEP = """
root, depth = sys.argv[1], int(sys.argv[2])
name = "d" * 255
fd = os.open(root, os.O_RDONLY)
for number in range(depth):
    os.mkdir(name, dir_fd=fd)
    os.symlink("/etc", "etc", dir_fd=fd)
    below = os.open(name, os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    fd = below
os.fchdir(fd)
open("bottom", "w").close()
tell(depth * 256)
signal.pause()
"""
MANY = """
os.chdir(sys.argv[1])
for number in range(100):
    os.mkdir(str(number))
    os.close(os.open(f"{number}/file", os.O_CREAT | os.O_WRONLY))
    for other in range(1000):  # names: inodes take longer to make than to remove
        os.link(f"{number}/file", f"{number}/{other}")
tell(100_000)
signal.pause()
"""


@pytest.mark.parametrize(("code", "count"), [(DEEP, "2000"), (MANY, "")], ids=["deep", "many"])
def test_more_files_and_deeper_ones_than_usual_are_removed(
    job: PretendJob, code: str, count: str
) -> None:
    with attack(job, code, str(containers_of(job)), count) as (_, line):
        assert int(line) >= 100_000  # names, or bytes of a path
        assert_gone(job, 20)
    assert not [name for name in trash() if name.startswith(f"{job.id}-")]


def trash() -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(STATE / "trash")
    return []


# Two directories change places, as fast as it goes: one holds a link where the other has files.
SWAP = """
SYS_renameat2, AT_FDCWD, EXCHANGE = (316 if os.uname().machine == "x86_64" else 276), -100, 2
target, count_file, *roots = sys.argv[1:]
def fill(place):
    os.makedirs(place + "/a/b/c", exist_ok=True)
    for number in range(15):
        open(f"{place}/a/b/c/file{number}", "w").close()
        open(f"{place}/a/b/file{number}", "w").close()
    for name in ("link", "b/link", "b/c/link"):
        os.symlink(target, f"{place}/a/{name}")
    os.symlink(target, place + "/x")
pairs = []
for root in roots:
    for number in range(6):
        place = f"{root}/s{number}"
        fill(place)
        top = os.open(place, os.O_RDONLY)
        inner = os.open(place + "/a", os.O_RDONLY)
        pairs += [(top, b"a", top, b"x"), (inner, b"b", inner, b"link")]
        pairs += [(inner, b"b/c", inner, b"b/link"), (top, b"a", top, b"x")]
count = os.open(count_file, os.O_RDWR)
for number in range(3):
    if os.fork() == 0:
        break
else:
    number = 3
done = 0
if number == 3: tell("on")
while True:
    for one, name, other, other_name in pairs:
        if libc.syscall(SYS_renameat2, one, name, other, other_name, EXCHANGE) == 0:
            done += 1
    os.pwrite(count, done.to_bytes(8, "little"), number * 8)
"""


@contextmanager
def counter(job: PretendJob) -> Iterator[Path]:
    """Make a file in which swappers count how often they succeeded."""
    path = Path(f"/tmp/oar-lxc-test-swaps-{job.id}")
    path.write_bytes(bytes(32))
    path.chmod(0o666)
    try:
        yield path
    finally:
        path.unlink()


def swaps(path: Path) -> int:
    data = path.read_bytes()
    return sum(int.from_bytes(data[n : n + 8], "little") for n in range(0, len(data), 8))


@pytest.mark.parametrize("target", ["canary", "/etc"])
def test_directories_that_are_swapped_until_their_owner_dies_lead_nowhere(
    job: PretendJob, canary: Canary, target: str
) -> None:
    aim = str(canary.path) if target == "canary" else target
    uid = pwd.getpwnam(job.user).pw_uid
    with counter(job) as count, attack(job, SWAP, aim, str(count), *map(str, places(job))):
        wait_for(lambda: swaps(count) > 1000)
        assert_gone(job)
        assert processes_of(uid) == []
        then = swaps(count)
        time.sleep(0.05)
        assert swaps(count) == then
    canary.assert_untouched()


def wait_for(condition: Callable[[], bool], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def seen_from_outside(job: PretendJob) -> list[str]:
    """Return a job's places, written otherwise: who names them as usual is taken for the job's."""
    return [str(path).replace("/jobs/", "/jobs//") for path in places(job)]


def assert_out_of_reach(job: PretendJob, first_id: int) -> None:
    """Destroy a job whose files another job holds; what is not gone is where nobody gets in."""
    begin = time.monotonic()
    done = job.node_side("destroy", "--deadline", f"{DEADLINE:g}", check=False)
    assert time.monotonic() - begin < DEADLINE
    assert (done.status, done.stderr) == (0, "")
    found = left(job, first_id)
    assert found.pop("cgroups") == oar_cgroups(job)
    files = found.pop("files", [])
    assert [path for path in files if not path.startswith(f"{STATE}/trash/")] == []
    assert found == {}
    assert not JobLayout(job.id).directory.exists()


def assert_trash_can_be_emptied(job: PretendJob) -> None:
    """What another job's processes held up goes with them."""
    assert job.node_side("destroy", check=False).status == 0
    assert not [name for name in trash() if name.startswith(f"{job.id}-")]


def test_directories_that_are_swapped_from_another_job_lead_nowhere(
    make_job: Callable[[], PretendJob], canary: Canary
) -> None:
    """Another job of the same user has the directories open, and lives on."""
    job, other = make_job(), make_job()
    first_id = published(job).first_id
    with counter(job) as count:
        arguments = [str(canary.path), str(count), *seen_from_outside(job)]
        with attack(other, SWAP, *arguments) as (process, _):
            wait_for(lambda: swaps(count) > 1000)
            before = swaps(count)
            assert_out_of_reach(job, first_id)
            assert swaps(count) > before
            assert process.poll() is None
        assert_trash_can_be_emptied(job)
    canary.assert_untouched()


# Fills a directory, whoever takes what out of it.
REFILL = """
fds = []
for number in range(30):
    place = f"{sys.argv[1]}/r{number}"
    os.makedirs(place + "/in", exist_ok=True)
    fds += [os.open(place, os.O_RDONLY), os.open(place + "/in", os.O_RDONLY)]
for number in range(3):
    if os.fork() == 0:
        break
if os.getpid() == os.getpgrp(): tell("on")
number = 0
while True:
    for fd in fds:
        number += 1
        with contextlib.suppress(OSError): os.mkdir(f"n{os.getpid()}-{number % 50}", dir_fd=fd)
"""


def test_a_directory_that_another_job_refills_does_not_hold_the_node(
    make_job: Callable[[], PretendJob],
) -> None:
    """What is not gone is out of reach and the reaper's; it is no reason to suspect the node."""
    job, other = make_job(), make_job()
    first_id = published(job).first_id
    with attack(other, REFILL, seen_from_outside(job)[0]) as (process, _):
        wait_for(lambda: len(list(containers_of(job).glob("r*/in/n*"))) > 100)
        assert_out_of_reach(job, first_id)
        assert process.poll() is None
    assert_trash_can_be_emptied(job)


def test_the_trash_is_nobodys_but_roots(job: PretendJob) -> None:
    job.destroy()
    status = (STATE / "trash").lstat()
    assert (status.st_uid, oct(status.st_mode & 0o7777)) == (0, "0o700")
