"""Mounts of the root side: idmapped views of the images and of homes, and their removal.

The calls are newer than what Python wraps, so they go through libc's ``syscall``. Numbers above
423 are the same on all of Linux's architectures but alpha.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from oar_lxc.idmap import IdMap, map_text
from oar_lxc.node.mountinfo import read_mounts

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR_NOSUID = 2
_MOUNT_ATTR_NODEV = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_MNT_DETACH = 2
_MS_PRIVATE = 1 << 18
_UMOUNT_NOFOLLOW = 8
_CLONE_NEWUSER = 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_idmapped(
    source: Path, target: Path, ids: IdMap | None, *, writable: bool = False, below: bool = False
) -> None:
    """Bind a directory on another, with other ids; what is mounted there later stays apart.

    Args:
        source: directory tree, or a mount.
        target: existing directory in a root-owned place.
        ids: who owners of files become; files of others belong to nobody, and nobody else can
            own a new file. None: as they are.
        writable: whether files can be written through it.
        below: whether what is mounted below the source is seen too.

    Raises:
        OSError: the kernel refused; file systems that support it and since when are listed in
            mount_setattr(2).
    """
    namespace = _user_namespace(ids) if ids else -1
    recursive = _AT_RECURSIVE if below else 0
    try:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW | recursive
        tree = _call("open_tree", source, _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)
        try:
            # No set-user-id here: what runs in a container runs from the overlay above.
            limits = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
            limits |= 0 if writable else _MOUNT_ATTR_RDONLY
            limits |= _MOUNT_ATTR_IDMAP if ids else 0
            # Private: to unmount what is below would else unmount it at the source as well.
            attributes = _MountAttr(limits, 0, _MS_PRIVATE, max(namespace, 0))
            _call(
                "mount_setattr",
                source,
                _SYS_MOUNT_SETATTR,
                tree,
                b"",
                _AT_EMPTY_PATH | recursive,
                ctypes.byref(attributes),
                ctypes.sizeof(attributes),
            )
            _call(
                "move_mount",
                target,
                _SYS_MOVE_MOUNT,
                tree,
                b"",
                _AT_FDCWD,
                os.fsencode(target),
                _MOVE_MOUNT_F_EMPTY_PATH,
            )
        finally:
            os.close(tree)
    finally:
        if ids:
            os.close(namespace)


def _user_namespace(ids: IdMap) -> int:
    """Return an open user namespace with a map of ids."""
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Only system calls here: the child lives until the parent has taken its namespace.
        try:
            os.close(ready_r)
            os.close(done_w)
            if _libc.unshare(_CLONE_NEWUSER) == 0:
                os.write(ready_w, b"1")
                os.read(done_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(done_r)
    try:
        if os.read(ready_r, 1) != b"1":
            raise OSError("this kernel does not allow user namespaces (user.max_user_namespaces)")
        for name, extents in (("uid_map", ids.uids), ("gid_map", ids.gids)):
            Path(f"/proc/{pid}/{name}").write_text(map_text(extents))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.close(done_w)
        os.waitpid(pid, 0)


def _call(name: str, path: Path, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", str(path))
    return result


def mounts_under(directory: Path, process: str = "self") -> list[Path]:
    """Return the mount points at or below a directory, in the order they were mounted.

    Args:
        directory: absolute, without links.
        process: whose mount namespace.
    """
    table = Path(f"/proc/{process}/mountinfo")
    return [m.point for m in read_mounts(table) if m.point.is_relative_to(directory)]


def unmount_under(directory: Path) -> None:
    """Unmount all at or below a directory, the last mounted first; links are not followed.

    Raises:
        OSError: the kernel refused.
    """
    for point in reversed(mounts_under(directory)):
        if _libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"umount: {os.strerror(code)}", str(point))
