"""Mount in this process's own mount namespace; Python wraps none of these calls.

Numbers above 423 are the same on all architectures of Linux except alpha.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NOSUID, NODEV, NOEXEC, READ_ONLY = 2, 4, 8, 1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429

_libc = ctypes.CDLL(None, use_errno=True)


def mount_fresh(kind: str, target: Path, flags: int) -> None:
    """Mount a file system of the kernel's own, such as sysfs.

    Raises:
        OSError: the kernel refused.
    """
    name = kind.encode()
    _check(_libc.mount(name, os.fsencode(target), name, ctypes.c_ulong(flags), None), target)


class Copy:
    """A copy of the mount of a directory with all mounts below it, mounted nowhere yet.

    Raises:
        OSError: the kernel refused.
    """

    def __init__(self, directory: Path) -> None:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
        path = os.fsencode(directory)
        self._tree = _libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), _AT_FDCWD, path, flags)
        _check(min(self._tree, 0), directory)

    def mount(self, directory: Path) -> None:
        """Mount it on a directory.

        Raises:
            OSError: the kernel refused.
        """
        place = (self._tree, b"", _AT_FDCWD, os.fsencode(directory), _MOVE_MOUNT_F_EMPTY_PATH)
        try:
            _check(_libc.syscall(ctypes.c_long(_SYS_MOVE_MOUNT), *place), directory)
        finally:
            os.close(self._tree)


def _check(result: int, path: Path) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount: {os.strerror(code)}", str(path))
