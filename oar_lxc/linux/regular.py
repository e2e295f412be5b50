"""Read regular files only, so that a FIFO, a device or an endless file never blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

MOST = 16 << 20  # bytes; the largest file that is read as a whole


def read_regular(
    path: Path, *, follow: bool = False, owners: Collection[int] | None = None, most: int = MOST
) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        follow: whether it may be a symbolic link.
        owners: user ids that may own the file, which then may have no second hard link; None
            allows any owner.
        most: bytes that it may have at most.

    Raises:
        OSError: the file cannot be read, is not regular, has another owner, or is too long.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if owners is not None and (status.st_uid not in owners or status.st_nlink != 1):
            raise OSError(errno.EPERM, "it is not of whom it should be", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content
