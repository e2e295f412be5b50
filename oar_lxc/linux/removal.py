"""Remove a directory with all below it, but not what is mounted there; follow no links."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import CommandError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.run import run

LONG = 600.0  # seconds, enough for an image


def remove_tree(path: Path, timeout: float = LONG) -> None:
    """Remove a file, or a directory with all below it; "already gone" is success.

    rm(1) opens each directory relative to its parent and without following links, and descends to
    any depth. With ``--one-file-system`` it leaves alone what is mounted below. If a caller other
    than root may not enter a directory that it owns, this first gives it the permission.

    Args:
        path: the file or directory.
        timeout: seconds.

    Raises:
        CommandError: something could not be removed, such as a directory with a mount.
        CommandTimeoutError: it took longer than ``timeout`` seconds.
    """
    if not os.path.lexists(path):
        return
    end = Deadline.after(timeout)
    argv = ["rm", "-rf", "--one-file-system", "--preserve-root=all", "--", str(path)]
    try:
        run(argv, timeout=timeout)
    except CommandError:
        if os.geteuid() == 0:  # root may enter all directories
            raise
        _open_up(path)
        run(argv, timeout=end.timeout())


def _open_up(path: Path) -> None:
    """Let the owner enter all directories at and below a path, except those mounted there."""
    with suppress(OSError):
        device = path.lstat().st_dev
        waiting = [_enter(str(path), None, device)]
        while waiting:
            if (fd := waiting.pop()) is None:
                continue
            try:
                for name in os.listdir(fd):
                    waiting.append(_enter(name, fd, device))
            finally:
                os.close(fd)


def _enter(name: str, parent: int | None, device: int) -> int | None:
    """Let the owner enter a directory, and open it; None if it is on another file system."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):
        place = os.open(name, os.O_PATH | flags, dir_fd=parent)
        try:
            here = os.stat(place)
            if here.st_dev != device:
                return None
            own = f"/proc/self/fd/{place}"  # this directory, even if its name is another's now
            os.chmod(own, stat.S_IMODE(here.st_mode) | stat.S_IRWXU)
            return os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(place)
    return None
