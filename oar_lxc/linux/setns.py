"""Enter namespaces that files keep, and make new ones; Python wraps these calls from 3.12 on."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEW_USER = 0x10000000
NEW_NETWORK = 0x40000000
NEW_MOUNTS = 0x00020000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: Path, kind: int) -> None:
    """Enter a namespace: a user namespace with the whole process, another with this thread.

    Args:
        path: a file that keeps it, such as one of ``/proc/PID/ns``.
        kind: :data:`NEW_USER` or :data:`NEW_NETWORK`.

    Raises:
        OSError: the kernel refused; a process with several threads enters no user namespace.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), f"setns: {path}")
    finally:
        os.close(fd)


def unshare(kinds: int) -> None:
    """Enter new namespaces.

    Args:
        kinds: a sum of this module's constants.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.unshare(kinds), "unshare")


def in_user_namespace(path: Path) -> bool:
    """Whether this process is in the user namespace that a file keeps."""
    return os.path.samestat(os.stat("/proc/self/ns/user"), path.stat())


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
