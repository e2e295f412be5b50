"""What tests of a hostile user share: attacks that run as the user, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.model.layout import JobLayout
from tests import kernel
from tests.integration.conftest import left, published
from tests.integration.nodes import oar_cgroups
from tests.pretend import CGROUPS, PYTHON, PretendJob

# What every hostile program begins with. It tells that its attack is on by writing a line.
PROLOGUE = """
import contextlib, ctypes, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
def tell(*words):
    print(*words, flush=True)
"""
# The user's own id, for who is the containers' root.
OWN_ID = """
import pwd
OWN = pwd.getpwnam(os.environ["USER"]).pw_uid
"""


DEADLINE = 8.0  # seconds that a destroy gets here


@contextmanager
def attack(
    job: PretendJob, code: str, *arguments: str, before: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a hostile program of the job's user; give it and the line that it told.

    Args:
        job: in whose cgroups of OAR it begins.
        code: Python, after :data:`PROLOGUE`.
        arguments: what it reads from ``sys.argv``.
        before: a program that becomes the hostile one, with its arguments.
    """
    process = job.start([*before, PYTHON, "-c", PROLOGUE + code, *arguments])
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line, process.communicate(timeout=10)[1]
        yield process, line
    finally:
        end([process])


def end(processes: list[subprocess.Popen[str]]) -> None:
    """End what a test started, with all in its process group."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # one that it started and that does not die
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()


def assert_gone(job: PretendJob, deadline: float = DEADLINE) -> None:
    """Destroy a job in time; nothing but OAR's own cgroups may be left of it."""
    first_id = published(job).first_id
    begin = time.monotonic()
    done = job.node_side("destroy", "--deadline", f"{deadline:g}", check=False)
    seconds = time.monotonic() - begin
    assert (done.status, done.stderr) == (0, "")
    assert seconds < deadline
    assert left(job, first_id) == {"cgroups": oar_cgroups(job)}


@contextmanager
def bystander(user: str, *argv: str) -> Iterator[int]:
    """Run a process of a user that is in no job, as after a login; it must outlive the test."""
    become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
    process = subprocess.Popen([*become, *(argv or ("sleep", "600"))], text=True)
    try:
        yield process.pid
        assert process.poll() is None
        assert not kernel.is_dead(process.pid)
    finally:
        process.kill()
        process.wait()


def lives(pid: int) -> bool:
    """Whether any thread of a process is alive; a leader's death does not tell."""
    with suppress(OSError):
        states = [
            kernel.read(f"/proc/{pid}/task/{tid}/stat") for tid in os.listdir(f"/proc/{pid}/task")
        ]
        return any(x and x.rpartition(")")[2].split()[0] not in "ZX" for x in states)
    return False


def processes_of(uid: int) -> list[int]:
    """Return the living processes of a user."""
    found = []
    for pid in kernel.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}").stat().st_uid == uid and lives(pid):
                found.append(pid)
    return found


def as_root_inside(job: PretendJob, *more: str) -> tuple[str, ...]:
    """Return the command that makes a program of a job's user the containers' root, on the node.

    Args:
        job: whose user namespace it enters.
        more: further options of nsenter.
    """
    namespace = f"--user={JobLayout(job.id).user_namespace}"
    return ("nsenter", namespace, *more, "--setuid=0", "--setgid=0", "--")


def in_network(job: PretendJob) -> tuple[str, ...]:
    """Return the command that makes it root in the job's network namespace."""
    return as_root_inside(job, f"--net={JobLayout(job.id).network_namespace}")


WATCHED = ("/etc/hostname", "/etc/passwd", "/etc/hosts", "/etc/shadow")


@dataclass
class Canary:
    """A directory of another user, full of files, and some of the system's: none may change.

    Attributes:
        path: the directory; everybody may read it and pass through.
    """

    path: Path
    before: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def look(self) -> dict[str, tuple[object, ...]]:
        """Return what is to be kept: every name with owner, mode, times and content."""
        found: dict[str, tuple[object, ...]] = {}
        for path in [*map(Path, WATCHED), self.path, *self.path.rglob("*")]:
            status = path.lstat()
            data = path.read_bytes() if path.is_file() else b""
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
            times = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            found[str(path)] = (*facts, *times, hashlib.sha256(data).hexdigest())
        return found

    def assert_untouched(self) -> None:
        assert self.look() == self.before


@contextmanager
def canary_of(user: str) -> Iterator[Canary]:
    """Make a canary in a user's home, on the file system of the state directory."""
    account = pwd.getpwnam(user)
    home = Path(account.pw_dir)
    path = home / "precious"
    (path / "deep" / "deeper").mkdir(parents=True)
    for number in range(20):
        for place in (path, path / "deep", path / "deep" / "deeper"):
            (place / f"file{number}").write_text(f"{number}\n")
    home.chmod(0o755)
    subprocess.run(["chown", "-R", f"{user}:", str(path)], check=True)
    (path / "open").write_text("anybody may write here\n")
    (path / "open").chmod(0o666)
    canary = Canary(path)
    canary.before = canary.look()
    try:
        yield canary
    finally:
        shutil.rmtree(path, ignore_errors=True)


WAITING = "tell(os.getpid()); signal.pause()"


def freezer(job: PretendJob) -> str:
    """Return the delegated cgroup of a job in the freezer's hierarchy."""
    return str(CGROUPS / "freezer" / job.cgroup[1:] / "lxc")


# Faster than anybody can stop them one by one: each puts a child in and is another from then on.
INJECT_AND_FORK = """
fd = os.open(f"{sys.argv[1]}/cgroup.procs", os.O_WRONLY)
tell(os.getpid())
for _ in range(3):
    if os.fork() == 0: break
while True:
    if (pid := os.fork()) == 0:
        signal.pause()
    try:
        os.write(fd, str(pid).encode())
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        if error.errno == 19: os._exit(0)
    if os.fork() != 0: os._exit(0)
"""


def put(job: PretendJob, pid: int) -> None:
    """Have the user put a process into a job's cgroup."""
    done = job.run(["sh", "-c", f"echo {pid} > {freezer(job)}/cgroup.procs"])
    assert (done.status, done.stderr) == (0, "")
