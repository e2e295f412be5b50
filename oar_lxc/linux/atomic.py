"""Write small files whole, or not at all."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path


def write_atomic(
    path: Path,
    content: str | bytes,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    *,
    durable: bool = False,
    scratch: Path | None = None,
) -> None:
    """Write a file; a reader sees the old content or the new, and nothing between.

    Processes and threads may write the same file at the same time, except with ``scratch``.

    Args:
        path: the file; a link is replaced and not followed.
        content: a text is written as UTF-8, its surrogates as the bytes that they stand for.
        mode: its permissions, whatever the umask.
        owner: uid and gid; the caller's if None.
        durable: the new content is on the disk when this returns, and the machine may crash at any
            time. This takes milliseconds.
        scratch: another name in the same directory for the file while it is written. A writer that
            is killed leaves it behind; so its name must be known where someone removes it.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    scratch = scratch or path.with_name(f".{path.name}.{threading.get_native_id()}")
    scratch.unlink(missing_ok=True)  # left by a killed writer
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)  # last, as a change of the owner clears bits of it
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, if its file system can tell that."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # fsync(2): the file system has no such request
            raise
    finally:
        os.close(fd)
