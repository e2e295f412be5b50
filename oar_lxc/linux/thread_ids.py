"""Change the ids of one thread; the C library's functions change those of the whole process."""

from __future__ import annotations

import ctypes
import errno
import os

# Numbers of setgroups(2), setresgid(2) and setresuid(2), by architecture.
_GENERIC = (159, 149, 147)  # architectures that Linux got since 2012
_NUMBERS = {
    "x86_64": (116, 119, 117),
    "ppc64le": (81, 169, 164),
    "s390x": (206, 210, 208),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def take_ids(uid: int, gid: int) -> None:
    """Give this thread a user and a group, and no other groups.

    Raises:
        OSError: the kernel refused, or this does not know the machine's architecture.
    """
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"ids of threads on {machine}")
    groups, gids, uids = _NUMBERS[machine]
    for number, *arguments in ((groups, 0, None), (gids, gid, gid, gid), (uids, uid, uid, uid)):
        if _libc.syscall(ctypes.c_long(number), *arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"ids of a thread: {os.strerror(code)}")


def own_proc_files() -> None:
    """Give this process and its children their files of /proc, which become root's with new ids.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
