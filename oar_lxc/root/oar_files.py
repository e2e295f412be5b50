"""Remove OAR's own files of a job from a node, if OAR cannot reach the node to do it.

The names are those of OAR's job resource manager (job_resource_manager_cgroups.pl of 2.5).
"""

from __future__ import annotations

import os
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.lock import take
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.run import run
from oar_lxc.oar.paths import CPUSET, OAR_HOME, job_key
from oar_lxc.root.files import forget

_BEGIN, _END = (f"-----{word} OPENSSH PRIVATE KEY-----".encode() for word in ("BEGIN", "END"))
_MAGIC = b"openssh-key-v1\0"


def oar_files(job_id: int, user: str, directory: Path = OAR_HOME) -> list[Path]:
    """Return OAR's existing files of a job: key, environment, nodefile, resources, pid."""
    names = [job_key(job_id, user).name, f"{user}_{job_id}.env", str(job_id)]
    names += [f"{job_id}_resources", f"pid_of_oarexec_for_jobId_{job_id}"]
    return [path for path in map(directory.joinpath, names) if os.path.lexists(path)]


def remove_oar_files(job_id: int, user: str, timeout: float, directory: Path = OAR_HOME) -> None:
    """Remove OAR's files of a job, and the job's key from OAR's authorized_keys.

    Args:
        job_id: the job.
        user: its user.
        timeout: seconds to wait for the lock of authorized_keys, which OAR takes, too.
        directory: OAR's directory.

    Raises:
        OarLxcError: another process held the lock for longer. The job's key file stays, as a later
            try needs it to find the line.
    """
    name = f"{user}_{job_id}"
    key = job_key(job_id, user, directory)
    marks = [f'environment="OAR_CPUSET=/oar/{name}"'.encode()]
    if key.is_file():  # with the cpuset off, only the key itself marks its line
        marks += _public_keys(key)
    for path in oar_files(job_id, user, directory):
        if path != key:
            forget(path)
    _forbid_keys(marks, directory / ".ssh/authorized_keys", timeout)
    forget(key)


def _public_keys(path: Path) -> list[bytes]:
    """Return the public key of a private key, as in authorized_keys; empty if it is damaged.

    A private key in OpenSSH's own form has the public key in plain text (PROTOCOL.key). For other
    forms, this runs ssh-keygen, which first asks the user database.

    Raises:
        CommandTimeoutError: ssh-keygen took too long.
    """
    from base64 import b64decode, b64encode  # few destroys need it

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
    """Make OAR keep the keys of all jobs on this node if its cpuset is off.

    Whenever a job starts, OAR 2.5 removes the keys of jobs whose cpuset does not exist. With the
    cpuset off, each job's cpuset is called ``undef``. Without this directory, oarsh would admit
    only the newest job.
    """
    (cpuset / "undef").mkdir(parents=True, exist_ok=True)


def keep_key(oar_cgroup: str, cpuset: Path = CPUSET) -> None:
    """Make OAR keep the key of a job that systemd has placed.

    Whenever a job with a key starts, OAR 2.6 removes the keys of jobs whose cpuset does not exist,
    and looks for cpusets of version 1, which no job has there.
    """
    (cpuset / oar_cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)


def kept_key(job_id: int, user: str, oar_cgroup: str, cpuset: Path = CPUSET) -> Path | None:
    """Return what :func:`keep_key` has made for a job; None if there is nothing."""
    path = cpuset / (oar_cgroup.lstrip("/") or f"oar/{user}_{job_id}")
    try:
        # Where OAR has cpusets, this directory is one of them, or a link.
        made = path.lstat().st_dev == cpuset.parent.lstat().st_dev
    except OSError:
        return None
    return path if made else None


def _forbid_keys(marks: list[bytes], path: Path, timeout: float) -> None:
    # In place and under flock, as OAR does it, so that no concurrent change of OAR is lost.
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+b") as file:
        if not take(fd, timeout):
            raise OarLxcError(f"{path} stayed locked for {timeout:g} s")
        lines = file.readlines()
        kept = [line for line in lines if not any(mark in line for mark in marks)]
        if kept != lines:
            file.seek(0)
            file.writelines(kept)
            file.truncate()
