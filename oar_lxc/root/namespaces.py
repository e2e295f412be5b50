"""Tell whether a process can take a job's ids through its user namespace.

A process in a user namespace can take the ids in the namespace's map, and those in the maps of the
namespaces around it: from a handle, the owner gets a handle of the parent (ioctl_nsfs(2)). A
handle of another namespace that was made inside serves as well. The kernel shows a namespace's map
only through a process in it. So a child enters a namespace that has no process.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.statx import Facts, facts_of
from oar_lxc.root.ownership import Whose

# linux/nsfs.h
_NS_GET_USERNS = 0xB701
_NS_GET_PARENT = 0xB702
_NS_GET_NSTYPE = 0xB703
_NS_GET_OWNER_UID = 0xB704
_CLONE_NEWUSER = 0x10000000
_PR_SET_DUMPABLE = 4
# The first words of links in /proc/PID/fd; other links are paths and begin with a slash.
_KINDS = {"cgroup", "ipc", "mnt", "net", "pid", "socket", "time", "user", "uts"}
_SIOCGSKNS = 0x894C  # linux/sockios.h: the network namespace of a socket
_TAP = (10, 200)  # /dev/net/tun, by whatever name
_SYS_PIDFD_GETFD = 438
_LONGEST = 1 << 16  # bytes of a map; the kernel's limit is a page
_PATIENCE = 1.0  # seconds for a child to enter a namespace
_MOMENT = 0.005  # seconds

_libc = ctypes.CDLL(None, use_errno=True)


class UserNamespaces:
    """The user namespaces of the node; each is examined once, so use it for one search only.

    Args:
        whose: the job's ids, and its user's.
    """

    def __init__(self, whose: Whose) -> None:
        self._whose = whose
        self._own = os.readlink("/proc/self/ns/user")
        system = os.stat("/proc/self/ns/user").st_dev
        self._system = os.major(system), os.minor(system)
        self._known: dict[str, bool] = {}
        self._own_map = _text("/proc/self/uid_map")
        self._known_maps: dict[bytes, bool | None] = {self._own_map: False}

    def by_map(self, pid: int) -> bool | None:
        """Whether a process can take ids of the job, by its map alone; reading that never blocks.

        The result is None if the namespaces around it must be examined (:meth:`is_jobs`). A
        process with the same map as this one is in this one's namespace, or in one that root made.

        Raises:
            OSError: the process is gone.
        """
        text = _text(f"/proc/{pid}/uid_map")
        if text not in self._known_maps:
            self._known_maps[text] = self._is_within(_extents(text)) or None
        return self._known_maps[text]

    def is_jobs(self, pid: int) -> bool:
        """Whether a process can take ids of the job through its user namespace.

        Raises:
            OSError: the process is gone.
        """
        path = f"/proc/{pid}/ns/user"
        name = os.readlink(path)
        if name == self._own:
            return False
        if name not in self._known:
            maps = _maps(pid)
            if os.readlink(path) != name:
                return self.is_jobs(pid)  # it entered a deeper one, and cannot return
            if self._is_within(maps):
                self._known[name] = True
            else:
                with _opened(path) as handle:
                    self._known[name] = self._judge(handle, maps)
        return self._known[name]

    def is_handle(self, pid: int, fd: str) -> bool:
        """Whether a process can take ids of the job through one of its open files."""
        with suppress(OSError):
            path = f"/proc/{pid}/fd/{fd}"
            kind, colon, _ = os.readlink(path).partition(":[")
            if kind.startswith("/"):
                facts = facts_of(0, path, follow=True)
                if _is_tap(facts):
                    kind = "socket"
                elif (facts.system_major, facts.system_minor) != self._system:
                    return False  # it is no namespace that was opened by a mount of it
            elif not colon or kind not in _KINDS:
                return False
            with _socket_namespace(pid, int(fd)) if kind == "socket" else _opened(path) as handle:
                if fcntl.ioctl(handle, _NS_GET_NSTYPE) == _CLONE_NEWUSER:
                    return self._reaches(handle)
                with _closing(fcntl.ioctl(handle, _NS_GET_USERNS)) as owner:
                    return self._reaches(owner)
        return False

    def is_users(self, pid: int) -> bool:
        """Whether a process is in a user namespace that the user made, with any ids."""
        with suppress(OSError):
            path = f"/proc/{pid}/ns/user"
            if os.readlink(path) != self._own:
                with _opened(path) as handle, self._line(handle) as line:
                    return self._is_users(line[-1])
        return False

    def _reaches(self, handle: int) -> bool:
        name = f"user:[{os.fstat(handle).st_ino}]"
        if name == self._own:
            return False
        if name not in self._known:
            self._known[name] = self._judge(handle, None)
        return self._known[name]

    def _judge(self, handle: int, maps: list[tuple[int, int]] | None) -> bool:
        """Whether a user namespace or one around it has ids of the job; ``maps`` may be known."""
        with self._line(handle) as line:
            # A namespace that root made may have all ids, and does not count.
            if not self._is_users(line[-1]):
                return False
            for depth, one in enumerate(line):
                name = f"user:[{os.fstat(one).st_ino}]"
                if depth or maps is None:
                    if self._known.get(name):
                        return True
                    if name in self._known:
                        continue
                    maps = _maps_of(one)
                if maps is None or any(self._whose.overlaps(*extent) for extent in maps):
                    return True
        return False

    def _is_within(self, maps: list[tuple[int, int]]) -> bool:
        """Whether an extent is inside the job's range; only the job's namespaces have such."""
        return any(
            self._whose.is_jobs(start) and self._whose.is_jobs(start + count - 1)
            for start, count in maps
        )

    def _is_users(self, handle: int) -> bool:
        owner = bytearray(4)
        fcntl.ioctl(handle, _NS_GET_OWNER_UID, owner)
        (uid,) = struct.unpack("=I", owner)
        return self._whose.is_users(uid)

    @contextmanager
    def _line(self, handle: int) -> Iterator[list[int]]:
        """Yield a user namespace and those around it, up to but without this process's own."""
        line = [handle]
        try:
            while True:
                try:
                    parent = fcntl.ioctl(line[-1], _NS_GET_PARENT)
                except PermissionError:  # it is this process's, or not inside that one
                    break
                if f"user:[{os.fstat(parent).st_ino}]" == self._own:
                    os.close(parent)
                    break
                line.append(parent)
            yield line
        finally:
            for one in line[1:]:
                os.close(one)


def pid_namespaces(pid: int) -> list[int]:
    """Return the inodes of a process's PID namespace and of those around it, below this process's.

    Empty if it is in this process's own, or gone.
    """
    own = os.stat("/proc/self/ns/pid").st_ino
    found: list[int] = []
    with suppress(OSError):
        here = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while (inode := os.fstat(here).st_ino) != own:
                found.append(inode)
                outer = fcntl.ioctl(here, _NS_GET_PARENT)
                os.close(here)
                here = outer
        finally:
            os.close(here)
    return found


def _maps(pid: int) -> list[tuple[int, int]]:
    """Return first id outside and count of each extent in a process's two maps."""
    names = ("uid_map", "gid_map")
    return [extent for name in names for extent in _extents(_text(f"/proc/{pid}/{name}"))]


def _extents(text: bytes) -> list[tuple[int, int]]:
    lines = map(bytes.split, text.splitlines())
    return [(int(start), int(count)) for _, start, count in lines]


def _text(path: str) -> bytes:
    with _opened(path) as file:
        return os.read(file, _LONGEST)


def _maps_of(handle: int) -> list[tuple[int, int]] | None:
    """Return the extents of an open user namespace; None if a process in it prevents that."""
    ready_r, ready_w = os.pipe()
    over_r, over_w = os.pipe()
    child = os.fork()
    if child == 0:
        # Only system calls here. Processes in the namespace may kill or stop this process, but not
        # read its memory.
        try:
            os.close(over_w)
            _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            if _libc.setns(handle, _CLONE_NEWUSER) == 0:
                os.write(ready_w, b"1")
                os.read(over_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(over_r)
    try:
        return _maps(child) if _has_entered(child, handle, ready_r) else None
    except OSError:
        return None
    finally:
        os.close(ready_r)
        os.close(over_w)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _has_entered(child: int, handle: int, ready: int) -> bool:
    """Whether a child is in a namespace; also if it was stopped there before it could tell."""
    name = f"user:[{os.fstat(handle).st_ino}]"
    end = Deadline.after(_PATIENCE)
    while not end.passed:
        if select.select([ready], [], [], _MOMENT)[0]:
            return bool(os.read(ready, 1))
        if os.readlink(f"/proc/{child}/ns/user") == name:
            return True
    return False


def _is_tap(facts: Facts) -> bool:
    """Whether a file is the device for networks in user space, which tells a namespace, too."""
    return stat.S_ISCHR(facts.mode) and (facts.major, facts.minor) == _TAP


def _socket_namespace(pid: int, fd: int) -> _closing:
    """Open the network namespace of a socket, or of such a device, that a process has open."""
    with _closing(os.pidfd_open(pid)) as process:
        copy = int(_libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), process, fd, 0))
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with _closing(copy):
        return _closing(fcntl.ioctl(copy, _SIOCGSKNS))


def _opened(path: str) -> _closing:
    return _closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


class _closing:
    """A descriptor that is closed at the end of the block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)
