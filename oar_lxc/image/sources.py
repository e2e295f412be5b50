"""What an image can be made from: archives, directories, squashfs, images of OCI and Docker.

Each becomes members of a tar archive, by the program that knows the form; what is in it is judged
later, in :mod:`oar_lxc.image.pipeline`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.forms import (
    FIRST,
    PACKERS,
    SQUASHFS,
    look_into,
    refuse_elsewhere,
    refuse_other,
    top_of,
)
from oar_lxc.image.layers import Heard, Layers, Opened
from oar_lxc.image.oci import (
    ArchiveBox,
    Blob,
    Box,
    DirectoryBox,
    find_image,
    is_image,
    top_of_image,
)
from oar_lxc.image.pipeline import Source
from oar_lxc.image.tarstream import HARD_LINK, DamagedError, Member, Reader
from oar_lxc.image.words import damage, need, no_room
from oar_lxc.linux.run import Program, running

# Of skopeo, as it names where images are.
_TRANSPORTS = ("oci", "oci-archive", "docker-archive")
TAR = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name"]
_UNPACKING = 7200.0  # seconds
_WARNING = 2  # status of gzip, where something follows that is none of it


@dataclass(frozen=True)
class Stream:
    """Members of a tree, open.

    Attributes:
        source: where to read them.
        size: how many bytes there are, 0 where unknown.
        program: what makes them; None where it is a file.
        unpacks: whether that only unpacks a file: where it fails, the file is to blame.
        remarks: what is worth knowing.
    """

    source: Source
    size: int = 0
    program: Program | None = None
    unpacks: bool = False
    remarks: tuple[str, ...] = field(default=())

    def finish(self) -> None:
        """Wait for what makes them.

        Raises:
            DamagedError: it cannot unpack the file.
            CommandError: it failed.
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
        raise DamagedError(damage(error)) from error


@contextmanager
def open_source(source: str, scratch: Path) -> Iterator[Stream]:
    """Open what an image is to be made from.

    Args:
        source: a file or directory, or one of skopeo's names of such (``oci:DIRECTORY:TAG``,
            ``docker-archive:FILE:NAME:TAG``).
        scratch: a directory for what has to be unpacked first.

    Raises:
        ImageError: it does not exist, is none of the forms, or a program is missing.
        CommandError: a program cannot make sense of it.
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
    """Open an image as stores keep it: a root file system in a tar archive, and nothing else.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = _first_of(file.fileno())
    with _reading(path, _unpacker(path, first)) as stream:
        yield stream


def _parse(source: str) -> tuple[str, Path, str]:
    """Return skopeo's word, the path and which of its images is meant.

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
    """Whether there is something; also where its directory may not be entered, nothing fails."""
    try:
        Path(path).stat()
    except OSError:
        return False
    return True


@contextmanager
def open_program(argv: list[str], env: Mapping[str, str] | None = None) -> Iterator[Stream]:
    """Open the archive that a program writes.

    Args:
        argv: program and arguments.
        env: its environment, the caller's where None.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        with running(argv, stdin=nothing, env=env) as program:
            yield Stream(Reader(program.stdout), 0, program)
    finally:
        os.close(nothing)


# Directories.


@contextmanager
def _directory(path: Path, scratch: Path, transport: str, reference: str) -> Iterator[Stream]:
    """Pack a directory; what belongs to the caller there is root's in the image."""
    children: dict[str, set[str]] = {}
    for name in os.listdir(path):
        if (path / name).is_dir() and not (path / name).is_symlink():
            with suppress(PermissionError):
                children[name] = set(os.listdir(path / name))
    top = top_of(os.listdir(path), children)
    box = DirectoryBox(path)
    if is_image(box):
        yield _image(box, reference, str(path), transport)
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
    """Return tar's options that make the files of an ordinary user those of root."""
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


# Archives, and what they are packed with.


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
        box = ArchiveBox(_unpacked(path, unpack, scratch), found, top)
        if is_image(box):
            yield _image(box, reference, str(path), transport)
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
    """Return the program that makes a tar archive of a file; empty where it is one, or none."""
    if first.startswith(SQUASHFS):
        return [need("sqfs2tar", "squashfs-tools-ng"), "--", str(path)]
    for magic, argv, package in PACKERS:
        if first.startswith(magic):
            return [need(argv[0], package), *argv[1:]]
    return []


def _refuse_other(path: Path, first: bytes, packed: str = "") -> None:
    """Refuse what is no tar archive and is known, also where only its name tells."""
    refuse_other(first, packed)
    if path.suffix == ".br":
        raise ImageError(
            "it is packed with brotli, which cannot be read: unpack it first (brotli -d)"
        )


@contextmanager
def _reading(path: Path, unpack: list[str]) -> Iterator[Stream]:
    """Open a file as an archive, by the program that unpacks it; itself where that is empty."""
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
    """What is below a directory of an archive, as if that were all.

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
        """Yield the members that are there."""
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
        """Yield the content of the member that came last."""
        return self._source.stream(size)

    def drain(self) -> None:
        """Read what follows, and forget it."""
        self._source.drain()


# Images of OCI and Docker.


def _image(box: Box, reference: str, called: str, transport: str) -> Stream:
    found = find_image(box, reference, called, transport, _open_blob)
    return Stream(Layers(found.layers), remarks=found.remarks)


def _unpacked(path: Path, unpack: list[str], scratch: Path) -> Path:
    """Return an archive that is not packed, as what is in it is read in another order."""
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
def _open_blob(blob: Blob, heard: Heard | None) -> Iterator[Opened]:
    """Open a layer, by the program that unpacks it."""
    with ExitStack() as stack:
        file = stack.enter_context(blob.path.open("rb", buffering=0))
        first = os.pread(file.fileno(), 8, blob.at)
        unpack = _unpacker(blob.path, first)
        file.seek(blob.at)
        if not unpack:
            yield Opened(Reader(file.fileno(), blob.size, heard), lambda: None)
            return
        # A program reads on behind the end of a part.
        part = stack.enter_context(running(["head", "-c", str(blob.size)], stdin=file.fileno()))
        program = stack.enter_context(running(unpack, stdin=part.stdout))
        yield Opened(Reader(program.stdout, None, heard), partial(_finish_unpacking, program))
