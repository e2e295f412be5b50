"""Enter, walk, thaw and remove cgroups, whatever a user has made below them.

Users can nest cgroups deeper than a path can be long or a process can have open files. So nothing
here names a nested cgroup by its path: :func:`walk` opens one directory at a time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.systemd import enter_unit

AGENT = "agent"  # below a cgroup of version 2, which holds no process itself: the user's own
NO_DIRECTORY_BELOW = 2  # link count of a directory without subdirectories: its name and its "."


def enter_cgroups(paths: Sequence[str], unit: str = "") -> None:
    """Move this process into the job's delegated cgroups; LXC makes its own below them.

    Args:
        paths: the cgroups.
        unit: systemd's unit that has the one cgroup, of version 2; empty if they are of version 1.

    Raises:
        OarLxcError: the kernel or systemd refuses.
    """
    if unit:
        enter_unit(unit, f"/{AGENT}")
        return
    pid = str(os.getpid())
    for path in paths:
        try:
            (Path(path) / "cgroup.procs").write_text(pid)
        except OSError as error:
            raise OarLxcError(f"cannot enter cgroup {path}: {error.strerror}") from error


def walk(
    root: Path,
    enter: Callable[[int, str], bool | None] = lambda parent, name: None,
    leave: Callable[[int, str], object] = lambda parent, name: None,
    *,
    depth: float = float("inf"),
    deadline: Deadline = NEVER,
) -> None:
    """Visit a cgroup and all below it, parents first; skip those that vanish meanwhile.

    Only one directory is open, and each step is relative to it, also the way back up. A cgroup
    cannot be moved to another parent, so ``..`` leads back. What is below a cgroup that this
    process may not open is skipped; root may open all.

    Args:
        root: the cgroup; it need not exist.
        enter: called for each cgroup before those below it, with the descriptor of the parent's
            directory and the cgroup's name; returns True if the cgroup is gone.
        leave: called likewise after those below it.
        depth: how many levels to visit; 1 for the cgroup alone.
        deadline: when to give up.

    Raises:
        TooLateError: the deadline has passed.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        here = os.open(root.parent, flags)
    except FileNotFoundError:
        return
    above: list[tuple[str, list[str]]] = []  # the way down: names, and siblings left to visit
    name, pending = "", [root.name]
    try:
        while pending or above:
            if deadline.passed:
                raise TooLateError(f"the time was over before all below {root} was seen")
            if not pending:
                fd = os.open("..", flags, dir_fd=here)
                os.close(here)
                here = fd
                left = name
                name, pending = above.pop()
                leave(here, left)
                continue
            child = pending.pop()
            if enter(here, child):
                continue
            try:
                status = os.stat(child, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                continue
            # The link count tells whether there are cgroups below. Most cgroups have none but
            # dozens of files, so they are not opened.
            if len(above) + 1 >= depth or status.st_nlink == NO_DIRECTORY_BELOW:
                leave(here, child)
                continue
            try:
                fd = os.open(child, flags, dir_fd=here)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            os.close(here)
            here = fd
            above.append((name, pending))
            name, pending = child, []
            with suppress(FileNotFoundError), os.scandir(here) as entries:
                pending = [x.name for x in entries if x.is_dir(follow_symlinks=False)]
    finally:
        os.close(here)


def processes_below(root: Path, deadline: Deadline = NEVER) -> set[int]:
    """Return the processes in a cgroup and in all below it.

    Args:
        root: the cgroup; it need not exist.
        deadline: when to give up.

    Raises:
        TooLateError: the deadline has passed.
    """
    found: set[int] = set()

    def read(parent: int, name: str) -> None:
        text = read_file(parent, f"{name}/cgroup.procs")
        found.update(int(word) for word in text.split() if word != b"0")

    walk(root, read, deadline=deadline)
    return found


def thaw(root: Path, *, depth: float = float("inf"), deadline: Deadline = NEVER) -> bool:
    """Thaw a cgroup and all below it, as a frozen process does not die.

    Args:
        root: the cgroup; it need not exist.
        depth: how many levels to thaw; 1 for the cgroup alone.
        deadline: when to give up.

    Returns:
        Whether there was a cgroup that can be frozen.

    Raises:
        TooLateError: the deadline has passed.
    """
    found = False

    def thaw_one(parent: int, name: str) -> None:
        nonlocal found
        found |= write_file(parent, f"{name}/freezer.state", "THAWED")
        found |= write_file(parent, f"{name}/cgroup.freeze", "0")

    walk(root, thaw_one, depth=depth, deadline=deadline)
    return found


def remove_cgroups(root: Path, deadline: Deadline = NEVER) -> bool:
    """Remove a cgroup and all below it, the deepest first.

    A cgroup stays busy for a moment after its last process died. One that is busy stays, and so
    does one that this process may not remove; the others are removed.

    Args:
        root: the cgroup; it need not exist.
        deadline: when to give up.

    Returns:
        Whether it is gone.

    Raises:
        TooLateError: the deadline has passed.
        OSError: there is a file in its place, or the kernel refuses in another way.
    """
    gone = True  # after the last step, which is at the root if it exists

    def remove(parent: int, name: str) -> bool:
        nonlocal gone
        gone = _remove(parent, name)
        return gone

    walk(root, remove, remove, deadline=deadline)
    return gone


def _remove(parent: int, name: str) -> bool:
    """Remove a cgroup; return whether it is gone. One with cgroups below stays."""
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.EACCES, errno.EPERM):
            raise
        return False
    return True


def read_file(directory: int, name: str) -> bytes:
    """Return the content of a cgroup's file; empty if it is missing or cannot be read.

    Args:
        directory: an open directory.
        name: the file's path from there.
    """
    with suppress(OSError):  # the cgroup is being removed
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(fd, "rb") as file:
            return file.read()
    return b""


def write_file(directory: int, name: str, text: str) -> bool:
    """Write to a cgroup's file; return False if it is missing, or the kernel refuses.

    Args:
        directory: an open directory.
        name: the file's path from there.
        text: what to write.
    """
    with suppress(OSError):
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        return True
    return False
