"""Lock files; the kernel releases a lock whenever its holder ends.

There are two kinds of locks, and neither sees the other. A lock of flock(2) belongs to an open
file: a child that inherits the file holds it, too. A lock of fcntl(2), which :func:`fcntl.lockf`
takes, belongs to a process: no child holds it, and it is lost when the process closes the file
once, even through another descriptor. A file of another program is locked as that program does it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.deadline import Deadline

Kind = Callable[[int, int], object]  # arguments: a descriptor, and flags such as fcntl.LOCK_EX
FOREVER = float("inf")
_MOMENT = 0.01  # seconds between two tries


def take(fd: int, timeout: float = FOREVER, kind: Kind = fcntl.flock) -> bool:
    """Lock an open file for this caller alone; closing it releases the lock.

    Args:
        fd: the file; for a lock of fcntl(2), it is open for writing.
        timeout: seconds to wait while others hold the lock; 0 for a single try.
        kind: :func:`fcntl.flock`, :func:`fcntl.lockf`, or a function that locks only a part.

    Returns:
        Whether it is locked.

    Raises:
        OSError: the file cannot be locked.
    """
    if timeout == FOREVER:
        kind(fd, fcntl.LOCK_EX)
        return True
    end = Deadline.after(timeout)
    while True:
        try:
            kind(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # fcntl(2) may raise either
            if end.passed:
                return False
            time.sleep(_MOMENT)
        else:
            return True


@contextmanager
def locked(
    path: Path, timeout: float = FOREVER, kind: Kind = fcntl.flock, what: str = ""
) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is missing, during the block.

    Args:
        path: the file; no link.
        timeout: seconds to wait while others hold the lock.
        kind: see :func:`take`.
        what: what is locked, for the error; the file by default.

    Raises:
        OarLxcError: others held the lock all the time.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        if not take(fd, timeout, kind):
            raise OarLxcError(f"{what or path} stayed locked for {timeout:g} s")
        yield
    finally:
        os.close(fd)
