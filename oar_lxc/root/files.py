"""Write the root side's files atomically, lock them, and remove them without following links."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux import lock
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.removal import remove_tree

LOCK = Path("/run/oar-lxc.lock")
JOBS_LOCK = Path("/run/oar-lxc-jobs.lock")
FILTER_LOCK = Path("/run/oar-lxc-filter.lock")
SHADOW_LOCK = Path("/etc/.pwd.lock")
SHADOW_WAIT = 2.0
BLOCK = 512  # bytes; the unit of st_blocks in stat(2)
FORGET_SECONDS = 5.0


@contextmanager
def locked(
    timeout: float = 20,
    path: Path = LOCK,
    shadow: Path = SHADOW_LOCK,
    *,
    anyway: bool = False,
) -> Iterator[None]:
    """Hold the node's lock: only one prepare, destroy or reap at a time changes shared files.

    This also takes the lock of lckpwdf(3), under which useradd and similar programs edit
    /etc/subuid. They hold it only for a moment. But a user can keep it held, by stopping a
    set-user-id program that has it. Then the block runs without it.

    Args:
        timeout: seconds to wait for the node's lock.
        path: the node's lock.
        shadow: the lock of programs that edit the system's user database.
        anyway: run the block also if the node's lock cannot be taken; for code that takes rights
            away.

    Raises:
        OarLxcError: another process held the node's lock for longer than ``timeout`` seconds.
        OSError: the node's lock cannot be opened.
    """

    with ExitStack() as held:
        with suppress(*([OSError] if anyway else [])):
            held.enter_context(lock.locked(path, timeout))
        with suppress(OarLxcError, OSError):
            held.enter_context(lock.locked(shadow, min(timeout, SHADOW_WAIT), fcntl.lockf))
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


def edit_lines(path: Path, change: Callable[[list[str]], list[str]], mode: int = 0o644) -> bool:
    """Change the lines of a small configuration file; the caller holds :func:`locked`.

    Args:
        path: the file; a missing one counts as empty.
        change: gets the lines without newlines and returns the new ones.
        mode: mode of a file that did not exist.

    Returns:
        Whether the file changed.

    Raises:
        OSError: it cannot be read or written, or is not a regular file.
    """
    try:
        before = read_lines(path)
        mode = path.stat().st_mode & 0o7777
    except FileNotFoundError:
        before = []
    after = change(list(before))
    if after == before:
        return False
    text = "".join(line + "\n" for line in after)
    if len(after) < len(before):
        write_anyway(path, text, mode)
    else:
        write_durably(path, text, mode)
    return True


def read_lines(path: Path) -> list[str]:
    """Return the lines of a small configuration file.

    Raises:
        OSError: it is missing, cannot be read, or is not a regular file.
    """
    return split_lines(read_regular(path, follow=True).decode("utf-8", "surrogateescape"))


def split_lines(text: str) -> list[str]:
    """Split a text only at newlines, like the programs that read such files."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]
