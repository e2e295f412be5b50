"""What ids of a job leave where everybody may: memory and queues that no process has, and files.

SysV IPC and POSIX queues of the node, and files in the directories that all users share, stay when
their makers are dead. OAR removes what has the user's own id; the user has no right to remove what
has an id of their containers. Whatever else is there is not touched, and no file system that
somebody mounted there is asked anything.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.root.ownership import Whose

SYSVIPC = Path("/proc/sysvipc")
PLACES = tuple(map(Path, ("/dev/mqueue", "/dev/shm", "/tmp", "/var/tmp")))  # noqa: S108
NOBODY = 65534
# The part of a destroy's time for a look, as other users' files may be millions; and where nobody
# waits for the destroy.
SHARE, PATIENT_SHARE = 0.3, 0.8
KEPT_OPEN = 4096  # directories, on the way down
ROUNDS = 5  # in which what somebody moves about meanwhile is looked at

_IPC_RMID = 0
_SHM_DEST = 0o1000  # removed already; it goes with the last process that has it
_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV = 1
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000  # a file system in user space is not asked
_STATX = struct.Struct("=20xIIH2xQ104xQ")  # stx_uid, stx_gid, stx_mode, stx_ino, stx_mnt_id
_STATX_MASK = 0x7FF | 0x1000  # the basic ones and the mount's number
_STATX_SIZE = 256

_OF_NAME = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC

_libc = ctypes.CDLL(None, use_errno=True)
_statx = _libc.statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class _Buffers(threading.local):
    """What the kernel writes its answers into, one for each thread: there are many."""

    def __init__(self) -> None:
        self.statx = ctypes.create_string_buffer(_STATX_SIZE)


_buffers = _Buffers()


class _MovedError(OarLxcError):
    """Somebody moved a directory that was looked at: something may not have been seen."""


class _Facts(NamedTuple):
    """What the kernel knows of a file without asking anybody."""

    uid: int
    gid: int
    mode: int
    inode: int
    mount: int


_Visit = Callable[[int, str, _Facts, str], None]  # an open directory, a name, facts and path


@dataclass
class Litter:
    """What a job's ids have left outside of the job's directory.

    Args:
        whose: the job's ids, and its user's.
        end: monotonic time at which looking ends where nothing was found until then.
        last: monotonic time at which removing what was found, and looking again, ends.
        places: the directories that all users share.

    Attributes:
        ipc: kind and number of each.
        files: paths.
        unknown: why there may be more; empty once all was looked at.
    """

    whose: Whose
    end: float
    last: float = 0.0
    places: tuple[Path, ...] = PLACES
    ipc: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    unknown: str = "what its ids left in directories of all users: nothing was looked at"

    def look(self) -> None:
        """Look for it, as far as the time allows.

        Raises:
            TooLateError: there are more files than there is time to look at.
            OarLxcError: somebody moves directories about.
            OSError: something cannot be looked at.
        """
        found: dict[str, None] = {}
        try:
            self.ipc = [f"{kind} {number}" for kind, number in _ipc_of(self.whose)]
            self._visit(lambda directory, name, facts, path: found.setdefault(path))
        except (OSError, OarLxcError) as error:
            self.unknown = f"what its ids left in directories of all users: {error}"
            raise
        else:
            self.unknown = ""
        finally:
            self.files = list(found)

    def remove(self) -> None:
        """Remove it, and look again what is left of it.

        A directory in which others have something is given to the user instead.

        Raises:
            OarLxcError: as above.
            OSError: likewise.
        """
        try:
            self.look()
        except (OSError, OarLxcError):
            if not self:
                raise
        if self:
            self.end = self.last
            for kind, number in _ipc_of(self.whose):
                _remove_ipc(kind, number)
            with suppress(OSError, OarLxcError):
                self._visit(self._remove)
            before = self.files
            try:
                self.look()
            except (OSError, OarLxcError):
                self.files = before  # as far as is known
                raise

    def __bool__(self) -> bool:
        return bool(self.ipc or self.files)

    def _remove(self, directory: int, name: str, facts: _Facts, path: str) -> None:
        with suppress(OSError):
            if not stat.S_ISDIR(facts.mode):
                os.unlink(name, dir_fd=directory)
                return
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError:
                self._give(directory, name)

    def _give(self, directory: int, name: str) -> None:
        """Give a directory to the user, without the bit by which its group would go to new files.

        By now, the name may be that of another's directory, which is not the user's to have.
        """
        fd = _open(directory, name)
        try:
            status = os.fstat(fd)
            if self._is_jobs(status.st_uid, status.st_gid):
                os.fchmod(fd, status.st_mode & 0o1777)
                os.fchown(fd, max(self.whose.uid, 0), NOBODY)
        finally:
            os.close(fd)

    def _is_jobs(self, uid: int, gid: int) -> bool:
        """Whether a file is the job's; what others make in its directories may have its group."""
        return self.whose.is_jobs(uid) or (self.whose.is_jobs(gid) and self.whose.is_users(uid))

    def _visit(self, act: _Visit) -> None:
        def visit(directory: int, name: str, facts: _Facts, path: str) -> None:
            if self._is_jobs(facts.uid, facts.gid):
                act(directory, name, facts, path)

        errors: list[OSError | OarLxcError] = []
        for place in self.places if self.whose.first_id else ():
            try:
                self._visit_place(place, visit)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, OarLxcError) as error:
                errors.append(error)  # the others are looked at all the same
        if errors:
            raise errors[0]

    def _visit_place(self, place: Path, visit: _Visit) -> None:
        for _ in range(ROUNDS - 1):
            with suppress(_MovedError):
                _visit_all(place, visit, self.end)
                return
        _visit_all(place, visit, self.end)


def _ipc_of(whose: Whose) -> Iterator[tuple[str, int]]:
    for kind in ("shm", "sem", "msg") if whose.first_id else ():
        try:
            head, *lines = (SYSVIPC / kind).read_text().splitlines()
        except (FileNotFoundError, ValueError):  # the kernel has none
            continue
        names = head.split()
        for line in lines:
            row = dict(zip(names, line.split(), strict=False))
            if kind == "shm" and int(row["perms"], 8) & _SHM_DEST:
                continue
            if any(whose.is_jobs(int(row[name])) for name in ("uid", "gid", "cuid", "cgid")):
                yield kind, int(line.split()[1])  # after the key


def _remove_ipc(kind: str, number: int) -> bool:
    if kind == "sem":
        return bool(_libc.semctl(number, 0, _IPC_RMID) == 0)
    return bool(getattr(_libc, f"{kind}ctl")(number, _IPC_RMID, None) == 0)


def _visit_all(place: Path, visit: _Visit, end: float) -> None:
    """Visit all below a directory, on its mount alone, what is inside a directory before it.

    Users nest directories deeper than there are open files, and move them. Those near the top stay
    open meanwhile; below these, the way back is ``..``, and where that leads elsewhere, the next
    one that is open.
    """
    moved = ""
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = [str(place)]
    # The way down: what is a directory, in which open one or in which inode, and what else is yet
    # to be seen in that.
    above: list[tuple[_Facts, int, int, list[tuple[str, _Facts]]]] = []
    try:
        mount = _facts(here, "").mount
        below = _list(here, mount, visit, str(place), end)
        while below or above:
            if below:
                name, facts = below.pop()
                try:
                    fd = _open(here, name)
                except OSError:  # it is another file by now, or a mount
                    visit(here, name, facts, "/".join([*path, name]))
                    continue
                if len(above) < KEPT_OPEN:
                    above.append((facts, here, 0, below))
                else:
                    above.append((facts, -1, _facts(here, "").inode, below))
                    os.close(here)
                here = fd
                path.append(name)
                below = _list(here, mount, visit, "/".join(path), end)
                continue
            facts, kept, inode, below = above.pop()
            fd = kept if kept >= 0 else _parent(here, inode)
            os.close(here)
            here = fd
            if here >= 0:
                visit(here, path[-1], facts, "/".join(path))
            else:
                moved = "/".join(path)
            while here < 0:
                _, here, _, below = above.pop()
                path.pop()
            path.pop()
    finally:
        for fd in (here, *(kept for _, kept, _, _ in above)):
            if fd >= 0:
                os.close(fd)
    if moved:
        raise _MovedError(f"{moved} was moved while it was looked at")


def _parent(directory: int, inode: int) -> int:
    """Open the directory that an open one is in; -1 where that is another one by now."""
    with suppress(OSError):
        fd = _open(directory, "..")
        if _facts(fd, "").inode == inode:
            return fd
        os.close(fd)
    return -1


def _list(here: int, mount: int, visit: _Visit, path: str, end: float) -> list[tuple[str, _Facts]]:
    """Visit the files in an open directory, and return the directories in it."""
    found: list[tuple[str, _Facts]] = []
    with suppress(FileNotFoundError), os.scandir(here) as entries:  # it was removed meanwhile
        for entry in entries:
            if time.monotonic() > end:
                raise TooLateError(f"the time was over before all in {path} was seen")
            try:
                facts = _facts(here, entry.name)
            except OSError:  # it is gone
                continue
            if facts.mount != mount:
                continue
            if stat.S_ISDIR(facts.mode):
                found.append((entry.name, facts))
            else:
                visit(here, entry.name, facts, f"{path}/{entry.name}")
    return found


def _facts(directory: int, name: str) -> _Facts:
    """Ask the kernel, and no file system, about a file in an open directory, or about that."""
    buffer = _buffers.statx
    flags = _OF_NAME if name else _OF_NAME | _AT_EMPTY_PATH
    if _statx(directory, os.fsencode(name), flags, _STATX_MASK, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx")
    return _Facts(*_STATX.unpack_from(buffer))


def _open(directory: int, name: str) -> int:
    """Open a directory in an open one, on the same mount; a link is none."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_NO_XDEV)
    fd = int(
        _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2), directory, os.fsencode(name), how, ctypes.c_size_t(24)
        )
    )
    if fd < 0:
        raise OSError(ctypes.get_errno(), "openat2")
    return fd
