"""Clean the list in which lxc-user-nic(1) counts the devices that users plugged into bridges.

lxc-user-nic adds a line for each device. It removes lines of vanished devices only when the same
user plugs another device into the same bridge. So the lines of ended jobs would stay, and each
start of a container would read them.

It locks the list while it works, and a user may stop it then. For an ended job the list does not
matter. So a destroy that finds the list locked leaves it alone, and the next destroy removes the
lines of all ended jobs.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.linux.lock import take
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.bridge import NET

NICS = Path("/run/lxc/nics")
PATIENCE = 0.1  # seconds to wait for the lock, which is normally held for a moment
_BRIDGE = re.compile(rb"olb[1-9][0-9]{0,9}")


def forget_gone(path: Path = NICS) -> None:
    """Remove the lines of jobs' bridges that do not exist any more, unless the list is locked.

    Raises:
        OSError: the list cannot be read or written.
    """
    with _locked(path) as fd:
        if fd is None:
            return
        before = _read(fd)
        lines = before.splitlines(keepends=True)
        after = b"".join(line for line in lines if not _is_gone(_bridge(line)))
        if after != before:
            # In place, as other processes wait for this file's lock. Until it is truncated, empty
            # lines follow the new text, never old ones.
            os.pwrite(fd, after.ljust(len(before), b"\n"), 0)
            os.ftruncate(fd, len(after))


def left_of(layout: JobLayout, path: Path = NICS) -> list[str]:
    """Return the lines of a job's bridge; empty if the list is locked."""
    with _locked(path) as fd:
        lines = [] if fd is None else _read(fd).splitlines()
    mine = layout.bridge.encode()
    return [os.fsdecode(line) for line in lines if _bridge(line) == mine]


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        yield None
        return
    try:
        # lxc-user-nic takes the same kind of lock.
        locked = stat.S_ISREG(os.fstat(fd).st_mode) and take(fd, PATIENCE, fcntl.lockf)
        yield fd if locked else None
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _bridge(line: bytes) -> bytes:
    """Return the bridge of a line: user, kind, bridge and device."""
    words = line.split()
    return words[2] if len(words) > 2 else b""


def _is_gone(bridge: bytes) -> bool:
    return bool(_BRIDGE.fullmatch(bridge)) and not os.path.lexists(NET / os.fsdecode(bridge))
