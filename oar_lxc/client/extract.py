"""Put what a container sends into a directory of ours, and nowhere else.

The container's root decides every byte of it and may be anybody: names that lead out, links to
write through, and files that are more than files are refused here, each by its name. Directories
are entered by descriptor, part by part, and no link is followed on the way.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from oar_lxc.errors import OarLxcError

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Complain(Protocol):
    """Takes sentences about what is not copied, or not as it was."""

    def __call__(self, sentence: str, *, lost: bool = True) -> None:
        """Take one; ``lost`` where something was left out."""


class Readable(Protocol):
    """What content is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to so many bytes, none at the end."""


class Refused(OarLxcError):
    """A member that is not what it should be; the message says which and why."""


class Extraction:
    """A directory that members of an archive are put into.

    Args:
        directory: descriptor of the directory; it stays the caller's.
        complain: is given one sentence for each thing that is left out or changed.
    """

    def __init__(self, directory: int, complain: Complain) -> None:
        self._top = directory
        self._complain = complain
        self._made: set[tuple[str, ...]] = set()  # the regular files, for hard links
        self._directories: list[tuple[tuple[str, ...], int, float]] = []

    def add(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        """Put one member in its place.

        Raises:
            Refused: its name or kind is none that a copy has.
            OSError: the disk is full, or something is in the way.
        """
        parts = check_parts(member.name)
        mode = stat.S_IMODE(member.mode)
        if mode & 0o7000 and not member.issym():
            # Whoever runs it here would run a file of the container's with the user's own rights.
            if mode & 0o6000 and not member.isdir():
                self._complain(f"{member.name}: copied without its set-id bits", lost=False)
            mode &= 0o777
        if not parts:
            if not member.isdir():
                raise Refused(f"{member.name!r} is not a directory")
            return  # it was there before
        with self._parent(parts) as parent:
            name = parts[-1]
            if member.isdir():
                if self._make_directory(parent, name):
                    self._directories.append((parts, mode, member.mtime))
            elif member.isreg():
                self._make_file(parent, name, content, member, mode)
                self._made.add(parts)
            elif member.issym():
                _place(parent, name, lambda new: os.symlink(member.linkname, new, dir_fd=parent))
            elif member.islnk():
                self._link(parent, name, member)
                self._made.add(parts)
            else:
                kind = "a FIFO" if member.isfifo() else "a device or of an unknown kind"
                self._complain(f"{member.name}: not copied, as it is {kind}")

    def finish(self) -> None:
        """Give new directories their modes and times, which have to wait until they are full."""
        for parts, mode, mtime in reversed(self._directories):
            with self._open(parts) as fd:
                os.fchmod(fd, mode)
                _set_time(fd, mtime)

    @contextmanager
    def _parent(self, parts: tuple[str, ...]) -> Iterator[int]:
        with self._open(parts[:-1]) as fd:
            yield fd

    @contextmanager
    def _open(self, parts: tuple[str, ...]) -> Iterator[int]:
        fd = os.dup(self._top)
        try:
            for number, part in enumerate(parts):
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        path = "/".join(parts[: number + 1])
                        raise Refused(f"{path} is no directory but a link or a file") from error
                    raise
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _make_directory(self, parent: int, name: str) -> bool:
        """Make a directory; return whether it is new. One that was there stays as it is."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
            return False
        return True

    def _make_file(
        self, parent: int, name: str, content: Readable | None, member: tarfile.TarInfo, mode: int
    ) -> None:
        def make(new: str) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(new, flags, 0o600, dir_fd=parent), "wb") as file:
                left = member.size
                while left and content is not None:
                    data = content.read(min(left, CHUNK))
                    if not data:
                        raise Refused(f"{member.name}: the copy was cut off")
                    if member.sparse is not None and not data.strip(b"\0"):
                        file.seek(len(data), os.SEEK_CUR)  # holes stay holes
                    else:
                        file.write(data)
                    left -= len(data)
                file.truncate(member.size)
                file.flush()
                os.fchmod(file.fileno(), mode)
                _set_time(file.fileno(), member.mtime)

        _place(parent, name, make)

    def _link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        target = check_parts(member.linkname)
        if target not in self._made:
            raise Refused(f"{member.name}: a hard link to {member.linkname!r}, which was not sent")
        with self._parent(target) as there:

            def make(new: str) -> None:
                os.link(
                    target[-1], new, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False
                )

            _place(parent, name, make)


def check_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's name.

    Raises:
        Refused: it leads somewhere else.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise Refused(f"{name!r} leads out of what was asked for")
    return parts


def _place(parent: int, name: str, make: Callable[[str], None]) -> None:
    """Make something beside and put it in the place of what has the name.

    Raises:
        IsADirectoryError: a directory has the name.
    """
    new = f".{name[:200]}.{secrets.token_hex(4)}"
    try:
        make(new)
        os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=parent)
        raise
    with suppress(OSError):  # two names of one file: rename then leaves both
        os.unlink(new, dir_fd=parent)


def _set_time(fd: int, seconds: float) -> None:
    with suppress(OSError, OverflowError, ValueError):
        os.utime(fd, (seconds, seconds))
