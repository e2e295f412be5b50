"""Files that OAR itself keeps of a job on a node, and removes with it unless it cannot get there.

The names are those of OAR's job resource manager (job_resource_manager_cgroups.pl of 2.5).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.run import run
from oar_lxc.root.files import forget

OAR = Path("/var/lib/oar")
KEY = ".jobkey"
CPUSET = Path("/dev/cpuset")

_BEGIN, _END = (f"-----{word} OPENSSH PRIVATE KEY-----".encode() for word in ("BEGIN", "END"))
_MAGIC = b"openssh-key-v1\0"


def oar_files(job_id: int, user: str, directory: Path = OAR) -> list[Path]:
    """Return OAR's files of a job that exist: key, environment, nodefile, resources, pid."""
    names = [f"{user}_{job_id}{suffix}" for suffix in (KEY, ".env")]
    names += [str(job_id), f"{job_id}_resources", f"pid_of_oarexec_for_jobId_{job_id}"]
    return [path for path in map(directory.joinpath, names) if os.path.lexists(path)]


def remove_oar_files(job_id: int, user: str, timeout: float, directory: Path = OAR) -> None:
    """Remove OAR's files of a job, and its key from those that let users in.

    Args:
        job_id: the job.
        user: its user.
        timeout: seconds to wait for the lock of the latter, which OAR takes too.
        directory: where OAR has them.

    Raises:
        OarLxcError: the lock was held for longer; the job's key stays, which tells its line.
    """
    name = f"{user}_{job_id}"
    key = directory / f"{name}{KEY}"
    marks = [f'environment="OAR_CPUSET=/oar/{name}"'.encode()]
    if key.is_file():  # with the cpuset off, only the key itself tells
        marks += _public_keys(key)
    for path in oar_files(job_id, user, directory):
        if path != key:
            forget(path)
    _forbid_keys(marks, directory / ".ssh/authorized_keys", timeout)
    forget(key)


def _public_keys(path: Path) -> list[bytes]:
    """Return the public key of a private one, as it is in authorized_keys; none of a damaged one.

    OpenSSH writes it in the open into its own form of a key (PROTOCOL.key). Of another form
    ssh-keygen tells it, which asks the user database first.

    Raises:
        CommandTimeoutError: ssh-keygen took too long.
    """
    from base64 import b64decode, b64encode  # few destroys come here

    try:
        text = read_regular(path).partition(_BEGIN)[2].partition(_END)[0]
        data = b64decode(text)
        if data.startswith(_MAGIC):
            place = len(_MAGIC)
            for _ in range(3):  # cipher, key derivation and its options
                place += 4 + int.from_bytes(data[place : place + 4])
            place += 4  # the number of keys, which is 1
            length = int.from_bytes(data[place : place + 4])
            if 0 < length <= len(data) - place - 4:
                return [b64encode(data[place + 4 : place + 4 + length])]
    except (OSError, ValueError):
        return []
    public = run(["ssh-keygen", "-y", "-P", "", "-f", str(path)], timeout=5, check=False)
    return [word.encode() for word in public.stdout.split()[1:2]]


def keep_keys(cpuset: Path = CPUSET) -> None:
    """Let OAR keep the keys of all jobs on this node where its cpuset is off.

    Whenever a job starts, OAR 2.5 forgets the keys of jobs whose cpuset is not there. With the
    cpuset off that of every job is called ``undef``, and oarsh lets only the youngest job in.
    """
    (cpuset / "undef").mkdir(parents=True, exist_ok=True)


def _forbid_keys(marks: list[bytes], path: Path, timeout: float) -> None:
    # In place and under flock, as OAR does it: what it writes meanwhile must not be lost.
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+b") as file:
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OarLxcError(f"{path} stayed locked for {timeout:g} s") from None
                time.sleep(0.01)
        lines = file.readlines()
        kept = [line for line in lines if not any(mark in line for mark in marks)]
        if kept != lines:
            file.seek(0)
            file.writelines(kept)
            file.truncate()
