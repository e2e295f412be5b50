"""Ask the kernel what it knows of a file without asking the file's own file system (statx(2)).

The file system may be one in user space, or a file server, and may not answer.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import NamedTuple

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
# stx_uid, stx_gid, stx_mode, stx_ino, stx_rdev_major, stx_rdev_minor, stx_dev_major,
# stx_dev_minor, stx_mnt_id
_STATX = struct.Struct("=20xIIH2xQ88xIIIIQ")
_MASK = 0x7FF | 0x1000  # the basic fields and the mount's number
_SIZE = 256

_statx = ctypes.CDLL(None, use_errno=True).statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class _Buffers(threading.local):
    """A buffer per thread for the kernel's answers, used again for each of many calls."""

    def __init__(self) -> None:
        self.statx = ctypes.create_string_buffer(_SIZE)


_buffers = _Buffers()


class Facts(NamedTuple):
    """What the kernel itself knows of a file.

    Attributes:
        uid: its owner.
        gid: its group.
        mode: its type and permissions.
        inode: its number in its file system.
        major: of a device, the number of its driver.
        minor: of a device, its number there.
        system_major: of its file system's device, the number of its driver.
        system_minor: of its file system's device, its number there.
        mount: the kernel's number of the mount that it is on.
    """

    uid: int
    gid: int
    mode: int
    inode: int
    major: int
    minor: int
    system_major: int
    system_minor: int
    mount: int


def facts_of(directory: int, name: str, *, follow: bool = False) -> Facts:
    """Return the facts of a file in an open directory.

    Args:
        directory: a descriptor.
        name: the file's name; empty for the directory itself.
        follow: whether to follow a link.

    Raises:
        OSError: there is no such file.
    """
    buffer = _buffers.statx
    flags = _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    flags |= (0 if follow else _AT_SYMLINK_NOFOLLOW) | (0 if name else _AT_EMPTY_PATH)
    if _statx(directory, os.fsencode(name), flags, _MASK, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx")
    return Facts(*_STATX.unpack_from(buffer))
