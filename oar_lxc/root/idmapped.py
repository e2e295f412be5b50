"""Make and remove the root side's mounts, such as idmapped views of the images and of the trees.

Python does not wrap these new system calls, so they go through libc's ``syscall``. Numbers above
423 are the same on all architectures of Linux except alpha.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.linux.mounts import read_mounts
from oar_lxc.model.idmap import IdMap, map_text

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_RESOLVE_NO_SYMLINKS = 4
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR_NOSUID = 2
_MOUNT_ATTR_NODEV = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_FSOPEN_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1
_MNT_DETACH = 2
_MS_PRIVATE = 1 << 18
_CLONE_NEWUSER = 0x10000000
_READY = b"\0"
_ROUNDS = 10  # tries to unmount while users move directories

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def mount_idmapped(
    source: Path | int, target: Path | int, ids: IdMap | Path | None, *, writable: bool = False
) -> None:
    """Bind-mount a directory on another with mapped ids, without the mounts below it.

    Args:
        source: a directory, or the descriptor of one (:func:`open_point`).
        target: an existing directory in a root-owned place, or the descriptor of one.
        ids: the map of file owners, or the file of a user namespace that has it. Owners outside
            the map appear as "nobody", and cannot own a new file. None: no mapping.
        writable: whether files can be written through the mount.

    Raises:
        OSError: the kernel refused. mount_setattr(2) lists the file systems that support it, and
            since which version.
    """
    # No set-user-id here: programs of a container run from the overlay above this mount.
    limits = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
    limits |= 0 if writable else _MOUNT_ATTR_RDONLY
    namespace = -1
    if isinstance(ids, Path):
        namespace = os.open(ids, os.O_RDONLY | os.O_CLOEXEC)
    elif ids:
        namespace = _user_namespace(ids)
    try:
        _bind(source, target, limits | (_MOUNT_ATTR_IDMAP if ids else 0), max(namespace, 0))
    finally:
        if ids:
            os.close(namespace)


def try_idmap(directory: Path, ids: IdMap) -> None:
    """Map the ids of a copy of a directory's mount, which is mounted nowhere.

    Raises:
        OSError: the kernel refused.
    """
    namespace = _user_namespace(ids)
    try:
        os.close(_copy(directory, _MOUNT_ATTR_IDMAP, namespace))
    finally:
        os.close(namespace)


def mount_on_itself(directory: Path) -> None:
    """Bind-mount a directory on itself, so that all mounts below it disappear with this one."""
    _bind(directory, directory, 0)


def mount_file(source: int, target: Path) -> None:
    """Bind-mount an open file, such as a namespace, on a file that exists.

    Raises:
        OSError: the kernel refused.
    """
    _bind(source, target, 0)


@contextmanager
def mounted_nowhere(kind: str) -> Iterator[Path]:
    """Mount a file system of the kernel's own in no directory during the block.

    So it is there whether the node mounts it or not, and nobody else sees the mount.

    Args:
        kind: type of the file system; it takes no options and no device.

    Yields:
        A path to its root, for this process.

    Raises:
        OSError: the kernel refused, or has no such file system.
    """
    context = _call("fsopen", Path(kind), _SYS_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        _call("fsconfig", Path(kind), _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call("fsmount", Path(kind), _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)


def _copy(source: Path | int, limits: int, namespace: int = 0) -> int:
    """Return the descriptor of a copy of a directory's mount, with attributes of its own."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH
    tree = _call("open_tree", source, _SYS_OPEN_TREE, *_place(source), flags)
    try:
        # Private: otherwise an unmount below it would also unmount at the source.
        attributes = _MountAttr(limits, 0, _MS_PRIVATE, namespace)
        size = ctypes.sizeof(attributes)
        what = (tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _call("mount_setattr", source, _SYS_MOUNT_SETATTR, *what)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _bind(source: Path | int, target: Path | int, limits: int, namespace: int = 0) -> None:
    tree = _copy(source, limits, namespace)
    try:
        empty = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        _call("move_mount", target, _SYS_MOVE_MOUNT, tree, b"", *_place(target), empty)
    finally:
        os.close(tree)


def _place(where: Path | int) -> tuple[int, bytes]:
    return (where, b"") if isinstance(where, int) else (_AT_FDCWD, os.fsencode(where))


@contextmanager
def open_point(path: Path) -> Iterator[int]:
    """Open a directory without following any link on its path, and without accessing it (O_PATH).

    Yields:
        A descriptor, with which other calls can refer to the directory.

    Raises:
        OSError: it does not exist, or its path has a link.
    """
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    size = ctypes.sizeof(how)
    fd = _call("openat2", path, _SYS_OPENAT2, *_place(path), ctypes.byref(how), size)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_of(fd: int) -> int:
    """Return the kernel's number of the mount that an open file is on."""
    (line,) = (
        line
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        if line.startswith("mnt_id:")
    )
    return int(line.split()[1])


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
                os.write(ready_w, _READY)
                os.read(done_r, 1)
            else:
                os.write(ready_w, bytes([ctypes.get_errno()]))
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(done_r)
    try:
        if (code := os.read(ready_r, 1)) != _READY:
            if code and code[0] in (errno.EAGAIN, errno.ENOMEM):
                raise OSError(code[0], f"unshare: {os.strerror(code[0])}")
            raise OSError("this kernel does not allow user namespaces (user.max_user_namespaces)")
        for name, extents in (("uid_map", ids.uids), ("gid_map", ids.gids)):
            Path(f"/proc/{pid}/{name}").write_text(map_text(extents))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.close(done_w)
        os.waitpid(pid, 0)


def _call(name: str, path: Path | int, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        raise OSError(code, f"{name}: {os.strerror(code)}", where)
    return result


def mounts_under(directory: Path, process: str = "self") -> list[Path]:
    """Return the mount points at or below a directory, in the order they were mounted.

    Args:
        directory: absolute, without links.
        process: the process whose mount namespace is read.
    """
    table = Path(f"/proc/{process}/mountinfo")
    return [mount.point for mount in read_mounts(table, below=directory)]


def unmount_under(directory: Path) -> None:
    """Unmount all mounts at or below a directory.

    The topmost mounts go first, and take those below with them. A user may rename directories with
    mounts in them. So this follows no link, and unmounts only mounts that it has found. If a mount
    has moved, this unmounts the others, and searches again.

    Raises:
        OSError: a mount could not be unmounted.
    """
    for last in (*[False] * (_ROUNDS - 1), True):
        found = list(read_mounts(below=directory))
        numbers = {mount.id for mount in found}
        for mount in (mount for mount in found if mount.parent not in numbers):
            try:
                _detach(mount.point, numbers)
            except OSError:
                if last:
                    raise
        if not found:
            return


def _detach(point: Path, numbers: Collection[int]) -> None:
    """Unmount the mount at a path, if its number is among ``numbers``."""
    with open_point(point) as fd:
        if mount_of(fd) not in numbers:
            raise OSError(errno.ESTALE, "what was mounted there is elsewhere by now", str(point))
        if _libc.umount2(f"/proc/self/fd/{fd}".encode(), _MNT_DETACH) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"umount: {os.strerror(code)}", str(point))
