"""Write files that a container sends into one local directory, and nowhere else.

The container's root controls every byte of the archive, and may be hostile. Names that lead out of
the directory, paths through links, and special files are refused, each by its name. Directories
are opened one by one, relative to the one before, and no link is followed.
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
    """Takes sentences about files that are not copied, or that are changed."""

    def __call__(self, sentence: str, *, lost: bool = True) -> None:
        """Take one sentence; ``lost`` tells whether a file was left out."""


class Readable(Protocol):
    """A stream to read content from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, or none at the end."""


class RefusedMember(OarLxcError):
    """A member is not allowed; the message names it and says why."""


class Extraction:
    """Writes members of an archive into a directory.

    Args:
        directory: descriptor of the directory; the caller closes it.
        complain: called with one sentence for each member that is left out or changed.
    """

    def __init__(self, directory: int, complain: Complain) -> None:
        self._top = directory
        self._complain = complain
        self._made: set[tuple[str, ...]] = set()  # the regular files, for hard links
        self._directories: list[tuple[tuple[str, ...], int, float]] = []

    def add(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        """Write one member.

        Raises:
            RefusedMember: the member is not allowed, or its content is cut off.
            OSError: the disk is full, or another file is in the way.
        """
        parts = check_parts(member.name)
        mode = stat.S_IMODE(member.mode)
        if mode & 0o7000 and not member.issym():
            # With a set-id bit, the container's file would run here with the user's own rights.
            if mode & 0o6000 and not member.isdir():
                self._complain(f"{member.name}: copied without its set-id bits", lost=False)
            mode &= 0o777
        if not parts:
            if not member.isdir():
                raise RefusedMember(f"{member.name!r} is not a directory")
            return  # the directory itself exists already
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
        """Set the modes and times of new directories, now that all their files are written."""
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
                        raise RefusedMember(
                            f"{path} is no directory but a link or a file"
                        ) from error
                    raise
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _make_directory(self, parent: int, name: str) -> bool:
        """Make a directory; return whether it is new. Leave an existing one as it is."""
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
                        raise RefusedMember(f"{member.name}: the copy was cut off")
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
            raise RefusedMember(
                f"{member.name}: a hard link to {member.linkname!r}, which was not sent"
            )
        with self._parent(target) as there:

            def make(new: str) -> None:
                os.link(
                    target[-1], new, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False
                )

            _place(parent, name, make)


def check_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's name.

    Raises:
        RefusedMember: the name is absolute or leads upwards.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise RefusedMember(f"{name!r} leads out of what was asked for")
    return parts


def _place(parent: int, name: str, make: Callable[[str], None]) -> None:
    """Make a file under a temporary name, then rename it to its own; replace a file there.

    This is not :func:`oar_lxc.linux.atomic.write_atomic`: the file may be a link, or longer than
    the memory; and both names are looked up in an open directory, which cannot be exchanged.

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
    with suppress(OSError):  # if both names are links of one file, rename does nothing
        os.unlink(new, dir_fd=parent)


def _set_time(fd: int, seconds: float) -> None:
    with suppress(OSError, OverflowError, ValueError):
        os.utime(fd, (seconds, seconds))
