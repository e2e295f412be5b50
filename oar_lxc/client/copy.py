"""Copy files between this machine and containers, and from one container to another.

A copy is a stream of tar members, which pass through this process one by one. They come from local
files or from a container's tar, and go to :mod:`oar_lxc.client.extract` or to a container's tar.
A container needs a shell and a tar, but no server.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from oar_lxc.client.extract import (
    CHUNK,
    Complain,
    Extraction,
    Readable,
    RefusedMember,
    check_parts,
)
from oar_lxc.errors import OarLxcError


class CopyError(OarLxcError):
    """A copy failed; the message names the path."""


@dataclass(frozen=True)
class Place:
    """One side of a copy.

    Attributes:
        container: ``JOB/CONTAINER`` or ``CONTAINER``; empty for a local path.
        path: the path there; for a container relative to root's home.
    """

    container: str
    path: str

    def __str__(self) -> str:
        """Return the place as it is written on a command line."""
        return f"{self.container}:{self.path}" if self.container else self.path


def parse_place(text: str) -> Place:
    """Parse ``JOB/CONTAINER:PATH``, ``CONTAINER:PATH`` or a local path.

    A local file whose name looks like a place in a container is written with ``./`` in front.
    """
    match = re.fullmatch(r"((?:[0-9]+/)?[a-z][a-z0-9-]{0,62}):(.*)", text, re.DOTALL)
    return Place(match[1], match[2] or ".") if match else Place("", text)


def split_path(path: str) -> tuple[str, str]:
    """Split a path into directory and name; the name is ``.`` for the content of a directory."""
    stripped = path.rstrip("/")
    if not stripped:
        return "/", "."
    directory, _, name = stripped.rpartition("/")
    if name in (".", ".."):
        return stripped, "."
    return directory or ("/" if path.startswith("/") else "."), name


class Source(Protocol):
    """The side that members come from.

    Attributes:
        name: the first part of all members' names; ``.`` for the content of a directory.
        inside: whether owners are ids of a container.
    """

    name: str
    inside: bool

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
        """Yield each member, with its content if it is a regular file.

        The caller must read the content before it asks for the next member.
        """

    def finish(self) -> None:
        """Wait for the source's end; raise CopyError if it failed."""

    def close(self) -> None:
        """Release the source; stop it if it is not at its end."""


class Target(Protocol):
    """The side that members go to.

    Attributes:
        name: the name of the copy there.
        into: whether the target is a directory to copy into; if not, the copy gets its name.
        over: whether the target is a file, which the copy replaces.
        inside: whether owners are ids of a container.
        label: the target's name in errors.
    """

    name: str
    into: bool
    over: bool
    inside: bool
    label: str

    def add(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        """Write one member; raise RefusedMember, OSError or CopyError if that fails."""

    def finish(self) -> None:
        """Complete the copy; raise CopyError if it failed."""

    def close(self) -> None:
        """Release the target; give the copy up if it is not complete."""


class LocalSource:
    """Members of a local file or directory.

    Args:
        path: what to copy. If it is a link, the link is followed; links below it stay links.
        complain: called with one sentence for each file that is left out.
    """

    def __init__(self, path: str, complain: Complain) -> None:
        self.inside = False
        self._complain = complain
        self._seen: dict[tuple[int, int], str] = {}
        directory, self.name = split_path(path)
        root = Path(directory if self.name == "." else path.rstrip("/"))
        try:
            root.stat()
            self._root = str(root.resolve() if root.is_symlink() else root)
        except OSError as error:
            raise CopyError(f"{path}: {error.strerror}") from error

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
        """Yield all members, each directory before its content."""
        yield from self._walk(self._root, self.name)

    def finish(self) -> None:
        """Do nothing: a local source has nothing to wait for."""

    def close(self) -> None:
        """Do nothing: a local source holds nothing open."""

    def _walk(self, path: str, name: str) -> Iterator[tuple[tarfile.TarInfo, Readable | None]]:
        try:
            facts = os.lstat(path)
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = stat.S_IMODE(facts.st_mode), facts.st_mtime
            if stat.S_ISDIR(facts.st_mode):
                entries = sorted(os.listdir(path))
                member.type = tarfile.DIRTYPE
                yield member, None
                for entry in entries:
                    yield from self._walk(f"{path}/{entry}", f"{name}/{entry}")
            elif stat.S_ISLNK(facts.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
                yield member, None
            elif stat.S_ISREG(facts.st_mode):
                key = (facts.st_dev, facts.st_ino)
                if facts.st_nlink > 1 and key in self._seen:
                    member.type, member.linkname = tarfile.LNKTYPE, self._seen[key]
                    yield member, None
                    return
                with open(path, "rb", opener=_no_fifo) as file, ExitStack() as stack:
                    content = _whole(file, member, path, stack)
                    yield member, content
                self._seen[key] = name
            else:
                self._complain(f"{path}: not copied, as it is a socket, a FIFO or a device")
        except OSError as error:
            if error.filename is None or error.errno is None:
                raise
            self._complain(f"{path}: {error.strerror}")


def _whole(file: IO[bytes], member: tarfile.TarInfo, path: str, stack: ExitStack) -> Readable:
    """Return the content of an open file; set the member's size and, if it has holes, its data.

    The size is that of the data that can be read, not the one in the file's status: there, files
    of /proc have size 0, and files of /sys the size of a page.
    """
    facts = os.fstat(file.fileno())
    head = file.read(CHUNK)
    if len(head) < CHUNK:
        member.size = len(head)
        return io.BytesIO(head)
    if len(head) > facts.st_size:
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
        copy.write(head)
        shutil.copyfileobj(file, copy, CHUNK)
        member.size = copy.tell()
        copy.seek(0)
        return copy
    member.size = facts.st_size
    if facts.st_blocks * 512 < facts.st_size:
        # tarfile itself has a list here; its type stub is wrong.
        member.sparse = list(_data(file.fileno(), facts.st_size))  # type: ignore[assignment]
    file.seek(0)
    return _Exactly(file, member.size, path)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each piece of data between a file's holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        if start < size:
            yield start, min(end, size) - start


def _no_fifo(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


class _Exactly:
    """A file of a fixed size: an error if it becomes shorter, and cut off if it grows."""

    def __init__(self, file: IO[bytes], size: int, path: str) -> None:
        self._file, self._left, self._path = file, size, path

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left:
            raise CopyError(f"{self._path}: it became shorter while it was copied")
        self._left -= len(data)
        return data


class LocalTarget:
    """A local directory to which members are written.

    Args:
        path: the target; if it is a directory, members go into it, else the copy gets this name.
        several: whether the target must be a directory, as there are several sources.
        complain: called with one sentence for each file that is left out or changed.
    """

    def __init__(self, path: str, several: bool, complain: Complain) -> None:
        self.inside = False
        self.stream: IO[bytes] | None = None
        try:
            self.into = Path(path).is_dir()
            if not self.into and (several or path.endswith("/")):
                why = "Not a" if Path(path).exists() else "No such"
                raise CopyError(f"{path}: {why} directory")
            directory, self.name = (path, ".") if self.into else split_path(path)
            self.over = not self.into and os.path.lexists(path)
            facts = os.lstat(path) if self.over else None
            if facts and not stat.S_ISREG(facts.st_mode):
                # Such as /dev/null.
                self.stream = Path(path).open("wb")  # noqa: SIM115  # close() closes it
            self._mode = stat.S_IMODE(facts.st_mode) if facts else None
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CopyError(f"{error.filename or path}: {error.strerror}") from error
        self._extraction = Extraction(self._fd, complain)
        self.label = path

    def add(self, member: tarfile.TarInfo, content: Readable | None) -> None:
        """Write one member; raise OSError, RefusedMember or CopyError if that fails."""
        if self.stream is None:
            if self._mode is not None and member.isreg():
                member.mode = self._mode
            self._extraction.add(member, content)
        elif content is None or not member.isreg():
            raise CopyError(f"{self.label}: only one file can be written to it")
        else:
            while data := content.read(CHUNK):
                self.stream.write(data)

    def finish(self) -> None:
        """Set the modes and times of new directories."""
        self._extraction.finish()

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)
        if self.stream is not None:
            self.stream.close()


def transfer(
    source: Source, target: Target, complain: Complain, progress: Callable[[int], None]
) -> None:
    """Copy all members of a source to a target.

    Args:
        source: where members come from.
        target: where they go.
        complain: called with one sentence for each member that is left out.
        progress: called with the number of bytes read since its last call.

    Raises:
        CopyError: the copy cannot go on.
    """
    for member, content in source.members():
        try:
            original = check_parts(member.name)
            top = () if source.name == "." else (source.name,)
            if original[: len(top)] != top:
                raise RefusedMember(f"{member.name!r} was not asked for")
            if member.issym() and original == top:
                # As the target itself, it would lead the next copy out of the target.
                raise RefusedMember(
                    f"{member.name!r} is a link to {member.linkname!r}: not copied"
                )
            if not (source.inside and target.inside):
                member.uid = member.gid = 0
                member.uname = member.gname = ""
            member.name = renamed(member.name, source.name, target)
            if member.islnk():
                member.linkname = renamed(member.linkname, source.name, target)
            if target.over and member.isdir() and not check_parts(member.name)[1:]:
                raise CopyError(f"{target.label}: it is a file, and {source.name} a directory")
            target.add(member, None if content is None else _Counted(content, progress))
        except RefusedMember as error:
            complain(f"{target.label}: {error}")
        except OSError as error:
            if error.errno is None:
                raise
            raise CopyError(f"{target.label}: {member.name}: {error.strerror}") from error


def renamed(name: str, source: str, target: Target) -> str:
    """Return a member's name at the target.

    Raises:
        RefusedMember: the name leads out of the target.
    """
    parts = check_parts(name)
    if source != "." and not target.into:
        parts = (target.name, *parts[1:])
    elif source == "." and not target.into:
        parts = (target.name, *parts)
    return "/".join(parts) or "."


class _Counted:
    """A file that reports how many bytes are read from it."""

    def __init__(self, file: Readable, progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress(len(data))
        return data
