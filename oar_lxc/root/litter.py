"""Find and remove what a job's ids leave in places that all users share: IPC objects and files.

SysV IPC, POSIX queues, and files in shared directories outlive the processes that made them. OAR
removes those with the user's own id. The user has no right to remove those with an id of the
containers, so this module does. It touches nothing else, and no file system that a user has
mounted in these directories.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.statx import Facts, facts_of
from oar_lxc.root.ownership import Whose

SYSVIPC = Path("/proc/sysvipc")
PLACES = tuple(map(Path, ("/dev/mqueue", "/dev/shm", "/run/lock", "/tmp", "/var/tmp")))  # noqa: S108
NOBODY = 65534
# The part of a destroy's time for a search, as there may be millions of files; and the part for
# the reaper, for which no job waits.
SHARE, PATIENT_SHARE = 0.3, 0.8
ENDS = 10  # directories at each end of a long path that are told
MOST_FOUND = 10_000  # paths to keep; users can make more than there is memory for
KEPT_OPEN = 4096  # directories that stay open on the way down
ROUNDS = 5  # searches of a directory while users move directories in it

_IPC_RMID = 0
_SHM_DEST = 0o1000  # removed already, but a process still has it
_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _MovedError(OarLxcError):
    """A directory was moved during the search, so the search may be incomplete."""


_Visit = Callable[[int, str, Facts, str], None]  # open directory, name, facts, path


@dataclass
class Litter:
    """Files and IPC objects with a job's ids outside the job's directory.

    Args:
        whose: the job's ids, and its user's.
        end: when the search ends if nothing was found until then.
        last: when the removal, and the search after it, end.
        places: the directories that all users share.

    Attributes:
        ipc: kind and number of each IPC object.
        files: paths as :func:`_shown` tells them; of very many, :data:`MOST_FOUND`.
        unknown: why there may be more; empty after a complete search.
    """

    whose: Whose
    end: Deadline
    last: Deadline = NEVER
    places: tuple[Path, ...] = PLACES
    ipc: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    unknown: str = "what its ids left in directories of all users: nothing was looked at"

    def look(self) -> None:
        """Search for files and IPC objects of the job's ids.

        Raises:
            TooLateError: there are more files than the time allows to look at.
            OarLxcError: a user moves directories during the search.
            OSError: a directory cannot be searched.
        """
        found: dict[str, None] = {}

        def note(directory: int, name: str, facts: Facts, path: str) -> None:
            if len(found) < MOST_FOUND:
                found[path] = None

        try:
            self.ipc = [f"{kind} {number}" for kind, number in _ipc_of(self.whose)]
            self._visit(note)
        except (OSError, OarLxcError) as error:
            self.unknown = f"what its ids left in directories of all users: {error}"
            raise
        else:
            self.unknown = ""
        finally:
            self.files = list(found)

    def remove(self) -> None:
        """Search, remove what is found, and search again.

        A directory that is not empty after that, as another user has files in it, is given to the
        job's user instead.

        Raises:
            OarLxcError: see :meth:`look`.
            OSError: see :meth:`look`.
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
                self.files = before  # the best that is known
                raise

    def __bool__(self) -> bool:
        return bool(self.ipc or self.files)

    def _remove(self, directory: int, name: str, facts: Facts, path: str) -> None:
        with suppress(OSError):
            if not stat.S_ISDIR(facts.mode):
                os.unlink(name, dir_fd=directory)
                return
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError:
                self._give(directory, name)

    def _give(self, directory: int, name: str) -> None:
        """Give a directory to the user, and clear its set-group-id bit.

        With that bit, new files would inherit its group. The name may mean another user's
        directory by now; that one stays as it is.
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
        """Whether a file is the job's; a group of the job's range alone is no proof.

        Files that other users make in the job's directories may inherit the group.
        """
        return self.whose.is_jobs(uid) or (self.whose.is_jobs(gid) and self.whose.is_users(uid))

    def _visit(self, act: _Visit) -> None:
        def visit(directory: int, name: str, facts: Facts, path: str) -> None:
            if self._is_jobs(facts.uid, facts.gid):
                act(directory, name, facts, path)

        errors: list[OSError | OarLxcError] = []
        for place in self.places if self.whose.first_id else ():
            try:
                self._visit_place(place, visit)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, OarLxcError) as error:
                errors.append(error)  # first search the other directories
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
        except (FileNotFoundError, ValueError):  # the kernel lacks this kind
            continue
        names = head.split()
        for line in lines:
            row = dict(zip(names, line.split(), strict=False))
            if kind == "shm" and int(row["perms"], 8) & _SHM_DEST:
                continue
            if any(whose.is_jobs(int(row[name])) for name in ("uid", "gid", "cuid", "cgid")):
                yield kind, int(line.split()[1])  # the number follows the key


def _remove_ipc(kind: str, number: int) -> bool:
    if kind == "sem":
        return bool(_libc.semctl(number, 0, _IPC_RMID) == 0)
    return bool(getattr(_libc, f"{kind}ctl")(number, _IPC_RMID, None) == 0)


def _visit_all(place: Path, visit: _Visit, end: Deadline) -> None:
    """Visit all files below a directory on the same mount; a directory comes after its content.

    Users can nest directories deeper than a process can have open files, and can move them. The
    directories near the top stay open. Below these, ``..`` leads back. If a directory was moved,
    so that its ``..`` is another, the visit goes on in the nearest directory that is still open.
    """
    moved = ""
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = [str(place)]
    # The way down. Each entry: the directory's facts, its parent's descriptor (or -1 and the
    # parent's inode), and the directories left to visit in the parent.
    above: list[tuple[Facts, int, int, list[tuple[str, Facts]]]] = []
    try:
        mount = facts_of(here, "").mount
        below = _list(here, mount, visit, str(place), end)
        while below or above:
            if below:
                name, facts = below.pop()
                try:
                    fd = _open(here, name)
                except OSError:  # the name is another file by now, or a mount
                    visit(here, name, facts, _shown([*path, name]))
                    continue
                if len(above) < KEPT_OPEN:
                    above.append((facts, here, 0, below))
                else:
                    above.append((facts, -1, facts_of(here, "").inode, below))
                    os.close(here)
                here = fd
                path.append(name)
                below = _list(here, mount, visit, _shown(path), end)
                continue
            facts, kept, inode, below = above.pop()
            fd = kept if kept >= 0 else _parent(here, inode)
            os.close(here)
            here = fd
            if here >= 0:
                visit(here, path[-1], facts, _shown(path))
            else:
                moved = _shown(path)
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


def _shown(parts: list[str]) -> str:
    """Return a path for people; of one that is deeper than any program can use, only its ends."""
    if len(parts) > 2 * ENDS:
        parts = [*parts[:ENDS], "…", *parts[-ENDS:]]
    return "/".join(parts)


def _parent(directory: int, inode: int) -> int:
    """Open the parent of an open directory; -1 if its parent has not the inode ``inode``."""
    with suppress(OSError):
        fd = _open(directory, "..")
        if facts_of(fd, "").inode == inode:
            return fd
        os.close(fd)
    return -1


def _list(
    here: int, mount: int, visit: _Visit, path: str, end: Deadline
) -> list[tuple[str, Facts]]:
    """Visit the files in an open directory, and return the directories in it."""
    found: list[tuple[str, Facts]] = []
    with suppress(FileNotFoundError), os.scandir(here) as entries:  # it was removed meanwhile
        for entry in entries:
            if end.passed:
                raise TooLateError(f"the time was over before all in {path} was seen")
            try:
                facts = facts_of(here, entry.name)
            except OSError:  # it is gone
                continue
            if facts.mount != mount:
                continue
            if stat.S_ISDIR(facts.mode):
                found.append((entry.name, facts))
            else:
                visit(here, entry.name, facts, f"{path}/{entry.name}")
    return found


def _open(directory: int, name: str) -> int:
    """Open a directory in an open one, if it is on the same mount and not a link."""
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
