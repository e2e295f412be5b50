"""Open the sources of images: archives, directories, squashfs, images of OCI and Docker.

A program for each form turns it into members of a tar archive. They are checked later, in
:mod:`oar_lxc.image.pipeline`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.formats import (
    FIRST,
    PACKERS,
    SQUASHFS,
    look_into,
    refuse_elsewhere,
    refuse_other,
    top_of,
)
from oar_lxc.image.layers import Layers, OnData, Opened
from oar_lxc.image.oci import (
    ArchiveFiles,
    Blob,
    DirectoryFiles,
    ImageFiles,
    find_image,
    is_image,
    top_of_image,
)
from oar_lxc.image.pipeline import Source
from oar_lxc.image.program_errors import damage_of, need, no_room
from oar_lxc.image.tarstream import HARD_LINK, DamagedError, Member, Reader
from oar_lxc.linux.run import Program, running

# skopeo's words for the forms of images.
_TRANSPORTS = ("oci", "oci-archive", "docker-archive")
TAR = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name"]
_UNPACKING = 7200.0  # seconds
_WARNING = 2  # status of gzip if other data follows the packed data


@dataclass(frozen=True)
class Stream:
    """An open source of an image.

    Attributes:
        source: yields the members.
        size: how many bytes there are; 0 if unknown.
        program: the program that writes them; None for a plain file.
        unpacks: whether the program only unpacks a file; then its failure means a damaged file.
        remarks: sentences for the user about the image.
    """

    source: Source
    size: int = 0
    program: Program | None = None
    unpacks: bool = False
    remarks: tuple[str, ...] = field(default=())

    def finish(self) -> None:
        """Wait for the program's end.

        Raises:
            DamagedError: the program cannot unpack the file.
            CommandError: the program failed.
        """
        if self.program is None:
            return
        if self.unpacks:
            _finish_unpacking(self.program)
        else:
            self.program.finish()


def _finish_unpacking(program: Program) -> None:
    try:
        program.finish(_UNPACKING)
    except CommandError as error:
        if error.status < 0 or no_room(error):
            raise
        if error.argv[0] == "gzip" and error.status == _WARNING:
            return
        raise DamagedError(damage_of(error)) from error


@contextmanager
def open_source(source: str, scratch: Path) -> Iterator[Stream]:
    """Open the source of an image.

    Args:
        source: a file or directory, or skopeo's name of one (``oci:DIRECTORY:TAG``,
            ``docker-archive:FILE:NAME:TAG``).
        scratch: a directory for an archive that must be unpacked first.

    Raises:
        ImageError: the source does not exist, has no known form, or a program is missing.
        CommandError: a program cannot read it.
    """
    transport, path, reference = _parse(source)
    with ExitStack() as stack:
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                opened = _directory(path, scratch, transport, reference)
            elif stat.S_ISREG(mode):
                opened = _file(path, scratch, transport, reference)
            else:
                raise ImageError(f"{source} is no file and no directory: write it to a file first")
            yield stack.enter_context(opened)
        except OSError as error:
            if error.filename is not None and Path(os.fsdecode(error.filename)) == path:
                raise ImageError(f"{source}: {error.strerror}") from error
            raise


@contextmanager
def open_archive(path: Path) -> Iterator[Stream]:
    """Open a store's archive of an image, which is a tar archive of a root file system.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = _first_of(file.fileno())
    with _reading(path, _unpacker(path, first)) as stream:
        yield stream


def _parse(source: str) -> tuple[str, Path, str]:
    """Return skopeo's word for the form, the path, and the reference of an image in it.

    Raises:
        ImageError: there is no such path.
    """
    if not _exists(source):
        transport, _, rest = source.partition(":")
        if transport in _TRANSPORTS:
            path, colon, reference = rest, "", ""
            while not _exists(path) and ":" in path:
                path, _, last = path.rpartition(":")
                reference = f"{last}{colon}{reference}"
                colon = ":"
            if path and _exists(path):
                return transport, Path(path), reference
            raise ImageError(f"{source}: No such file or directory")
        refuse_elsewhere(source)
    return "", Path(source), ""


def _exists(path: str) -> bool:
    """Whether a path exists; False also if its directory may not be entered."""
    try:
        Path(path).stat()
    except OSError:
        return False
    return True


@contextmanager
def open_program(
    argv: list[str],
    env: Mapping[str, str] | None = None,
    first: Callable[[], object] | None = None,
) -> Iterator[Stream]:
    """Open the archive that a program writes.

    Args:
        argv: program and arguments.
        env: its environment; the caller's if None.
        first: called in its process before it starts.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        with running(argv, stdin=nothing, env=env, first=first) as program:
            yield Stream(Reader(program.stdout), 0, program)
    finally:
        os.close(nothing)


# Directories.


@contextmanager
def _directory(path: Path, scratch: Path, transport: str, reference: str) -> Iterator[Stream]:
    """Pack a directory; files of a caller other than root belong to root in the image."""
    children: dict[str, set[str]] = {}
    for name in os.listdir(path):
        if (path / name).is_dir() and not (path / name).is_symlink():
            with suppress(PermissionError):
                children[name] = set(os.listdir(path / name))
    top = top_of(os.listdir(path), children)
    files = DirectoryFiles(path)
    if is_image(files):
        yield _image(files, reference, str(path), transport)
        return
    if transport:
        raise ImageError(f"{path} is no layout of OCI")
    tree = path / top
    if not (tree / "etc").is_dir() and not (tree / "bin").exists():
        raise ImageError(f"{path} has neither etc nor bin: it is no root file system")
    argv = [*TAR, *_own_ids(scratch), "-C", str(tree), "-cf", "-", "."]
    with open_program(argv) as stream:
        yield replace(stream, remarks=_taken(os.fsencode(top)))


def _own_ids(scratch: Path) -> list[str]:
    """Return tar's options that give the caller's files to root; none if the caller is root."""
    if os.geteuid() == 0:
        return []
    options = []
    for option, number in (("owner", os.getuid()), ("group", os.getgid())):
        table = scratch / option
        table.write_text(f"+{number} root:0\n")
        options.append(f"--{option}-map={table}")
    return options


def _taken(top: bytes) -> tuple[str, ...]:
    return (f"took the root file system that is in {os.fsdecode(top)}/",) if top else ()


# Archives.


@contextmanager
def _file(path: Path, scratch: Path, transport: str, reference: str) -> Iterator[Stream]:
    with path.open("rb") as file:
        first = _first_of(file.fileno())
    unpack = _unpacker(path, first)
    if not unpack:
        _refuse_other(path, first)
    with _reading(path, unpack) as stream:
        found = look_into(stream.source)
    if found.is_empty and unpack:
        with _reading(path, unpack) as stream:
            if stream.program:
                _refuse_other(path, _first_of(stream.program.stdout), unpack[0])
    top = top_of_image(found)
    if top is not None:
        files = ArchiveFiles(_unpacked(path, unpack, scratch), found, top)
        if is_image(files):
            yield _image(files, reference, str(path), transport)
            return
    if transport:
        raise ImageError(f"{path} is no archive of an image of OCI or Docker")
    inner = found.top()
    if not inner:
        found.refuse_parts()
    with _reading(path, unpack) as stream:
        if inner:
            below = Below(stream.source, inner)
            stream = replace(stream, source=below, remarks=_taken(inner))
        yield stream


def _unpacker(path: Path, first: bytes) -> list[str]:
    """Return the command that makes a file a tar archive; empty if none is needed or known."""
    if first.startswith(SQUASHFS):
        return [need("sqfs2tar", "squashfs-tools-ng"), "--", str(path)]
    for magic, argv, package in PACKERS:
        if first.startswith(magic):
            return [need(argv[0], package), *argv[1:]]
    return []


def _refuse_other(path: Path, first: bytes, packed: str = "") -> None:
    """Refuse a file of a known form that cannot be read; brotli is known only by the name."""
    refuse_other(first, packed)
    if path.suffix == ".br":
        raise ImageError(
            "it is packed with brotli, which cannot be read: unpack it first (brotli -d)"
        )


@contextmanager
def _reading(path: Path, unpack: list[str]) -> Iterator[Stream]:
    """Open a file as an archive, through the command that unpacks it unless that is empty."""
    with path.open("rb") as file:
        if not unpack:
            yield Stream(Reader(file.fileno()), path.stat().st_size)
            return
        with running(unpack, stdin=file.fileno()) as program:
            yield Stream(Reader(program.stdout), 0, program, unpacks=True)


def _first_of(fd: int) -> bytes:
    data = b""
    while len(data) < FIRST and (more := os.read(fd, FIRST - len(data))):
        data += more
    return data


class Below:
    """The members below a directory of an archive, as a source of its own.

    Args:
        source: the archive.
        top: the directory.
    """

    def __init__(self, source: Source, top: bytes) -> None:
        self._source = source
        self._top = top.split(b"/")

    @property
    def done(self) -> int:
        """How many bytes of the archive were read."""
        return self._source.done

    def members(self) -> Iterator[Member]:
        """Yield the members at and below the directory, with paths relative to it."""
        for member in self._source.members():
            path = self._below(member.path)
            if path is None:
                continue
            member.path = path
            if member.kind == HARD_LINK:
                target = self._below(member.target)
                if target is None:
                    raise ImageError(
                        f"hard link {member.name} leads to {os.fsdecode(member.target)}, outside "
                        "of the root file system: unpack it and import the directory"
                    )
                member.target = target
            yield member

    def _below(self, path: bytes) -> bytes | None:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if parts[: len(self._top)] != self._top:
            return None
        return b"/".join((b".", *parts[len(self._top) :]))

    def stream(self, size: int) -> Iterator[memoryview]:
        """Yield the content of the last member."""
        return self._source.stream(size)

    def drain(self) -> None:
        """Read and discard all data after the last member."""
        self._source.drain()


# Images of OCI and Docker.


def _image(files: ImageFiles, reference: str, called: str, transport: str) -> Stream:
    found = find_image(files, reference, called, transport, _open_blob)
    return Stream(Layers(found.layers), remarks=found.remarks)


def _unpacked(path: Path, unpack: list[str], scratch: Path) -> Path:
    """Return an archive unpacked, as its files are read in another order than it has them."""
    if not unpack:
        return path
    archive = scratch / "archive.tar"
    with (
        path.open("rb") as file,
        archive.open("xb") as output,
        running(unpack, stdin=file.fileno(), stdout=output.fileno()) as program,
    ):
        _finish_unpacking(program)
    return archive


@contextmanager
def _open_blob(blob: Blob, on_data: OnData | None) -> Iterator[Opened]:
    """Open a layer, through the program that unpacks it."""
    with ExitStack() as stack:
        file = stack.enter_context(blob.path.open("rb", buffering=0))
        first = os.pread(file.fileno(), 8, blob.at)
        unpack = _unpacker(blob.path, first)
        file.seek(blob.at)
        if not unpack:
            yield Opened(Reader(file.fileno(), blob.size, on_data), lambda: None)
            return
        # head, as the program that unpacks would read beyond the blob's end.
        part = stack.enter_context(running(["head", "-c", str(blob.size)], stdin=file.fileno()))
        program = stack.enter_context(running(unpack, stdin=part.stdout))
        yield Opened(Reader(program.stdout, None, on_data), partial(_finish_unpacking, program))
