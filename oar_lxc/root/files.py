"""Write the root side's files atomically, lock them, and remove them without following links."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.linux import lock
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.removal import remove_tree

LOCK = Path("/run/oar-lxc.lock")
JOBS_LOCK = Path("/run/oar-lxc-jobs.lock")
FILTER_LOCK = Path("/run/oar-lxc-filter.lock")
BLOCK = 512  # bytes; the unit of st_blocks in stat(2)
FORGET_SECONDS = 5.0


@contextmanager
def locked(timeout: float, path: Path = LOCK) -> Iterator[None]:
    """Hold the node's lock: only one prepare at a time chooses an id range.

    Raises:
        OarLxcError: another process held it for longer than ``timeout`` seconds.
        OSError: it cannot be opened.
    """
    with lock.locked(path, timeout):
        yield


@contextmanager
def job_locked(job_id: int, timeout: float, path: Path = JOBS_LOCK) -> Iterator[None]:
    """Hold the lock of one job: only one prepare, destroy or reap of it runs at a time.

    The lock is on one byte of a file, at the job's number, so it leaves no file behind. A process
    must not take it twice: releasing it once would release both.

    Raises:
        OarLxcError: another process held it for longer than ``timeout`` seconds.
    """

    def one_byte(fd: int, flags: int) -> None:
        fcntl.lockf(fd, flags, 1, job_id)

    with lock.locked(path, timeout, one_byte, f"job {job_id} in {path}"):
        yield


@contextmanager
def filter_locked(timeout: float, path: Path = FILTER_LOCK) -> Iterator[None]:
    """Hold the lock of the packet filter: only one process at a time loads it or adds elements.

    Raises:
        OarLxcError: another process held it for longer than ``timeout`` seconds.
    """

    with lock.locked(path, timeout):
        yield


def write_durably(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that it always holds the old text or the new, also after a crash.

    An existing file keeps its owner. Only root may be able to write to its directory. For files
    that several jobs share, the caller holds :func:`locked`.
    """
    owner = None
    with suppress(FileNotFoundError):
        status = os.stat(path, follow_symlinks=False)
        owner = status.st_uid, status.st_gid
    write_atomic(path, text, mode, owner, durable=True, scratch=half_written(path))


def write_anyway(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file as :func:`write_durably` does; if the disk is full, overwrite the old file.

    A user can fill a disk or use up its inodes, but a destroy must still be recorded. The disk
    blocks of the old file suffice for a new text that is not longer.

    Raises:
        OSError: neither way works.
    """
    try:
        write_durably(path, text, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _overwrite(path, text.encode("utf-8", "surrogateescape"), error)


def _overwrite(path: Path, data: bytes, full: OSError) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise full from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or len(data) > max(
            status.st_size, status.st_blocks * BLOCK
        ):
            raise full
        # A reader, also after a crash, finds empty lines after the new text, no old text.
        view = memoryview(data.ljust(status.st_size, b"\n"))
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def forget(path: Path) -> None:
    """Remove a file, or a directory in its place; "already gone" is success."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        remove_tree(path, FORGET_SECONDS)


def half_written(path: Path) -> Path:
    """Return the name of a file while it is written; a killed writer leaves it behind."""
    return path.with_name(f".{path.name}.oar-lxc")
