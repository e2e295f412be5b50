"""What a job's ids leave where all users may leave things, and what is there of others."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.linux.deadline import Deadline
from oar_lxc.root import keyrings
from oar_lxc.root.ownership import Whose
from tests import kernel
from tests.integration.attacks import PROLOGUE, as_root_inside, assert_gone
from tests.integration.conftest import published
from tests.pretend import PYTHON, PretendJob
from tests.unit.fakes.programs import wait_until

LEAVE = """
key, mark = int(sys.argv[1]), sys.argv[2]
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmget(key, 1 << 20, 0o1600)
ctypes.memset(libc.shmat(memory, None, 0), 1, 1 << 20)
assert libc.semget(key, 10, 0o1666) >= 0 and libc.msgget(key, 0o1666) >= 0
assert libc.mq_open(f"/{mark}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
for place in ("/dev/shm", "/tmp", "/var/tmp"):
    os.umask(0)
    top = f"{place}/{mark}"
    os.mkdir(top, 0o3777)
    os.symlink("/etc/passwd", f"{top}/link")
    os.symlink("/etc", f"{top}/etc")
    os.mkfifo(f"{top}/pipe")
    here = os.open(top, os.O_RDONLY)
    for _ in range(300):  # longer than a path may be
        os.mkdir("deeper" * 4, 0o777, dir_fd=here)
        there = os.open("deeper" * 4, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(os.open("-rf", os.O_CREAT | os.O_WRONLY, 0o6755, dir_fd=here))
    open(f"{place}/{mark}.file", "w").write("x")
with contextlib.suppress(OSError):  # a machine without that directory
    open(f"/run/lock/{mark}.file", "w").write("x")
tell(memory)
"""
BOBS_KEY = 0x0B0B


@contextmanager
def of_bob(other_user: str, mark: str) -> Iterator[dict[str, str]]:
    """Let another user put a file into each directory that is left, and have IPC of their own."""
    account = pwd.getpwnam(other_user)
    code = PROLOGUE + (
        "for path in sys.argv[1:]: open(path, 'w').write('bobs')\n"
        f"tell(libc.shmget({BOBS_KEY}, 4096, 0o1600), libc.semget({BOBS_KEY}, 1, 0o1600))\n"
    )
    paths = [f"/tmp/{mark}/bobs", f"/tmp/{mark}.bobs"]
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups", "--"]
    done = subprocess.run([*become, PYTHON, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory, semaphores = done.stdout.split()
    try:
        yield dict.fromkeys(paths, "bobs")
        assert f"\n{BOBS_KEY:>10} {memory:>10}" in kernel.read("/proc/sysvipc/shm")
        assert f" {account.pw_uid:>5} " in kernel.read("/proc/sysvipc/sem")
    finally:
        subprocess.run(["ipcrm", "-m", memory, "-s", semaphores], check=True)
        for path in paths:
            Path(path).unlink(missing_ok=True)


@pytest.fixture
def mark(job: PretendJob) -> Iterator[str]:
    """Return a name for what is left; nothing of it stays."""
    name = f"oar-lxc-test-left-{job.id}"
    yield name
    for place in ("/dev/shm", "/run/lock", "/tmp", "/var/tmp"):
        paths = [f"{place}/{name}{end}" for end in ("", ".file", ".own")]
        subprocess.run(["rm", "-rf", *paths], check=True)
    Path(f"/dev/mqueue/{name}").unlink(missing_ok=True)


def test_memory_queues_and_files_of_a_jobs_ids_go_with_it(
    job: PretendJob, other_user: str, mark: str
) -> None:
    """OAR removes what has the user's id; the user may not remove what containers' root left."""
    first_id, key = published(job).first_id, str(0x0A11CE00 + job.id % 255)
    passwd = Path("/etc/passwd").read_bytes()
    own = Path(f"/tmp/{mark}.own")
    assert job.run(["touch", str(own)]).status == 0
    done = job.run([*as_root_inside(job), PYTHON, "-c", PROLOGUE + LEAVE, key, mark])
    assert done.status == 0, done.stderr
    found = kernel.find_ipc(job.id, job.user, first_id)
    assert sorted(x.split()[0] for x in found) == ["msg", "sem", "shm"]
    assert len(kernel.find_shared(first_id)) > 900
    with of_bob(other_user, mark) as bobs:
        assert_gone(job, 40)
        assert {path: Path(path).read_text() for path in bobs} == bobs
        status = Path(f"/tmp/{mark}").stat()  # bob has something in it: it is the user's now
        assert (status.st_uid, oct(status.st_mode)) == (own.stat().st_uid, "0o41777")
    assert Path("/etc/passwd").read_bytes() == passwd
    assert own.exists()


KEEP_KEYS = """
SYS_add_key, SYS_keyctl = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
GET_PERSISTENT, PROCESS, USER = 22, -2, -4
os.setresuid(os.geteuid(), os.geteuid(), os.geteuid())
persistent = libc.syscall(SYS_keyctl, GET_PERSISTENT, -1, PROCESS)
for keyring in (USER, persistent):
    assert libc.syscall(SYS_add_key, b"user", b"x", b"x" * 5000, 5000, keyring) > 0
"""


# Tells how many bytes name the keys in each keyring, four for a key.
READ_KEYS = """
SYS_keyctl = 250 if os.uname().machine == "x86_64" else 219
READ, GET_PERSISTENT, PROCESS, USER = 11, 22, -2, -4
persistent = libc.syscall(SYS_keyctl, GET_PERSISTENT, -1, PROCESS)
tell(*(libc.syscall(SYS_keyctl, READ, keyring, None, 0) for keyring in (USER, persistent)))
"""


def keys_of(uid: int) -> str:
    """Return what an id finds in its keyrings; when the kernel frees them is its own affair."""
    return as_id(uid, READ_KEYS)


def as_id(uid: int, script: str, *arguments: str) -> str:
    """Run a program with an id; return what it told."""
    argv = [PYTHON, "-IS", "-c", PROLOGUE + script, *arguments]
    done = subprocess.run(
        argv, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_keys_of_a_jobs_ids_go_with_it(job: PretendJob, mark: str) -> None:
    """Some would last until the next boot; the user may not remove them, having no such id."""
    first_id = published(job).first_id
    python = f"/var/tmp/{mark}.file"
    make = f"cp {os.path.realpath(PYTHON)} {python}; chmod 6755 {python}"
    for argv in (
        [*as_root_inside(job), "sh", "-ec", make],
        [python, "-IS", "-c", PROLOGUE + KEEP_KEYS],
    ):
        done = job.run(argv)
        assert done.status == 0, done.stderr
    assert first_id in keyrings.owners(Whose(-1, first_id))
    assert_gone(job)
    assert wait_until(lambda: keys_of(first_id) == "0 0")  # it finds none for a while


# Adds a key to the id's keyring, does some more, and tells the keyring's number and its bytes.
ADD_KEY = """
SYS_add_key, SYS_keyctl = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
GET_ID, REVOKE, READ, USER, SESSION = 0, 3, 11, -4, -5
keyring = libc.syscall(SYS_keyctl, GET_ID, USER, 0)
assert keyring > 0
assert libc.syscall(SYS_add_key, b"user", b"x", b"x" * 5000, 5000, keyring) > 0
if sys.argv[1] == "revoke": assert libc.syscall(SYS_keyctl, REVOKE, SESSION) == 0
tell(keyring, libc.syscall(SYS_keyctl, READ, keyring, None, 0))
"""
READ_KEYRING = """
SYS_keyctl, READ = 250 if os.uname().machine == "x86_64" else 219, 11
tell(libc.syscall(SYS_keyctl, READ, int(sys.argv[1]), None, 0))
"""


@pytest.mark.parametrize(("number", "kind"), [(0, "keep"), (1, "revoke")])
def test_no_key_stays_while_the_kernel_finds_no_keyring(
    job: PretendJob, number: int, kind: str
) -> None:
    """It finds none of an id's for minutes after one of them was invalidated or revoked.

    Each case of each run has ids of its own, therefore.
    """
    first_id = published(job).first_id
    first = first_id + 1000 + os.getpid() % 1000 * 40 + number * 20
    rings = {}
    for uid in range(first, first + 20):
        rings[uid], size = as_id(uid, ADD_KEY, kind).split()
        assert size == "4"
    keyrings.forget(Whose(-1, first_id), Deadline.after(20))
    left = {as_id(uid, READ_KEYRING, ring) for uid, ring in rings.items()}
    assert left <= {"0", "-1"}  # it is empty, or gone


def test_what_is_left_elsewhere_is_told(job: PretendJob, mark: str) -> None:
    first_id = published(job).first_id
    job.destroy()
    path = Path(f"/dev/shm/{mark}.file")
    path.touch()
    os.chown(path, first_id + 3, 0)
    try:
        done = job.node_side("leftovers", "--first-id", str(first_id), check=False)
        assert (done.status, str(path) in done.stdout) == (1, True), done.stdout
        assert kernel.find_shared(first_id) == [str(path)]
        assert job.node_side("destroy", check=False).status == 0
    finally:
        path.unlink(missing_ok=True)


SHARE = """
os.umask(0)
os.mkdir(sys.argv[1], 0o777)
os.chmod(sys.argv[1], 0o2777)
tell("made")
"""


def test_what_others_make_in_a_directory_of_the_job_stays_theirs(
    job: PretendJob, other_user: str, mark: str
) -> None:
    """It has the job's group, as the directory gives its group to new files."""
    top = Path(f"/tmp/{mark}")
    done = job.run([*as_root_inside(job), PYTHON, "-c", PROLOGUE + SHARE, str(top)])
    assert done.status == 0, done.stderr
    become = ["setpriv", "--reuid", other_user, "--regid", other_user, "--init-groups", "--"]
    line = f"umask 077; mkdir {top}/bobs; cd {top}/bobs; echo bobs >file; mkdir empty"
    subprocess.run([*become, "sh", "-c", line], check=True)
    mine = top / "bobs"
    before = mine.stat()
    assert before.st_gid == published(job).first_id
    job.destroy()
    assert (mine / "file").read_text() == "bobs\n"
    assert (mine / "empty").is_dir()
    assert (mine.stat().st_uid, mine.stat().st_mode) == (before.st_uid, before.st_mode)
    assert top.stat().st_uid == pwd.getpwnam(job.user).pw_uid
