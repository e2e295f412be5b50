"""What an image can be made from: archives, directories, squashfs, images of OCI and Docker.

Each becomes one tar stream, by the program that knows the form; what is in it is judged later, in
:mod:`oar_lxc.image.pipeline`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import CommandError, ImageError
from oar_lxc.image.tarstream import DamagedError, Reader, members, padding
from oar_lxc.run import Program, run, running

_MAGIC = (
    (b"\x1f\x8b", ("gzip", "gzip")),
    (b"\xfd7zXZ\0", ("xz", "xz-utils")),
    (b"\x28\xb5\x2f\xfd", ("zstd", "zstd")),
)
_SQUASHFS = b"hsqs"
# How the first member is called in what `docker save` and skopeo write.
_DOCKER = re.compile(
    r"(\./)?([0-9a-f]{64}(/|\.json|\.tar)|blobs/|manifest\.json|repositories|index\.json|oci-layout)"
)
# Of skopeo, as it names where images are.
_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:")
TAR = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name"]


@dataclass(frozen=True)
class Stream:
    """A tar stream, open.

    Attributes:
        fd: where to read it.
        size: how many bytes the source has, 0 where unknown.
        program: what makes it; None where it is a file.
        unpacks: whether that only unpacks a file: where it fails, the file is to blame.
    """

    fd: int
    size: int
    program: Program | None = None
    unpacks: bool = False

    def finish(self) -> None:
        """Wait for what makes it.

        Raises:
            DamagedError: it cannot unpack the file.
            CommandError: it failed.
        """
        try:
            if self.program is not None:
                self.program.finish()
        except CommandError as error:
            if not self.unpacks or error.status < 0:
                raise
            words = said_by(error)[0]
            name = error.argv[0]
            raise DamagedError(words if words.startswith(name) else f"{name}: {words}") from error


def said_by(error: CommandError) -> list[str]:
    """Return what a program said that failed, a line at least."""
    lines = error.stderr.strip().splitlines() or ["it said nothing"]
    # zstd says first that it reads standard input.
    return [line.removeprefix("/*stdin*\\").strip(" :") for line in lines]


@contextmanager
def open_source(source: str, scratch: Path) -> Iterator[Stream]:
    """Open what an image is to be made from.

    Args:
        source: a file or directory, or one of skopeo's names of such (``oci:DIRECTORY:TAG``,
            ``docker-archive:FILE``).
        scratch: a directory for what has to be unpacked first.

    Raises:
        ImageError: it does not exist, is none of the forms, or a program is missing.
        CommandError: a program cannot make sense of it.
    """
    with ExitStack() as stack:
        if source.startswith(_TRANSPORTS):
            yield stack.enter_context(_oci(source, scratch))
            return
        path = Path(source)
        try:
            if path.is_dir():
                if (path / "oci-layout").is_file():
                    yield stack.enter_context(_oci(f"oci:{path}", scratch))
                else:
                    yield stack.enter_context(_directory(path, scratch))
                return
            file = stack.enter_context(path.open("rb"))
            magic = os.pread(file.fileno(), 8, 0)
        except OSError as error:
            raise ImageError(f"{source}: {error.strerror}") from error
        if magic.startswith(_SQUASHFS):
            argv = [need("sqfs2tar", "squashfs-tools-ng"), "--", str(path)]
            yield stack.enter_context(open_program(argv, unpacks=True))
            return
        size = path.stat().st_size
        for start, (name, package) in _MAGIC:
            if magic.startswith(start):
                argv = [need(name, package), "-dc"]
                break
        else:
            argv = []
        transport = _container_archive(path, argv)
        if transport:
            yield stack.enter_context(_oci(f"{transport}:{path}", scratch))
        elif argv:
            yield stack.enter_context(open_program(argv, file.fileno(), size, unpacks=True))
        else:
            yield Stream(file.fileno(), size)


@contextmanager
def open_program(
    argv: list[str],
    stdin: int | None = None,
    size: int = 0,
    env: Mapping[str, str] | None = None,
    *,
    unpacks: bool = False,
) -> Iterator[Stream]:
    """Open what a program writes.

    Args:
        argv: program and arguments.
        stdin: what it reads; nothing where None.
        size: how many bytes it reads, 0 where unknown.
        env: its environment, the caller's where None.
        unpacks: whether it only unpacks what it reads.
    """
    nothing = os.open(os.devnull, os.O_RDONLY) if stdin is None else -1
    try:
        with running(argv, stdin=nothing if stdin is None else stdin, env=env) as program:
            yield Stream(program.stdout, size, program, unpacks)
    finally:
        if nothing >= 0:
            os.close(nothing)


def _directory(path: Path, scratch: Path) -> AbstractContextManager[Stream]:
    """Pack a directory; what belongs to the caller there is root's in the image."""
    if not (path / "etc").is_dir() and not (path / "bin").exists():
        raise ImageError(f"{path} has neither etc nor bin: it is no root file system")
    return open_program([*TAR, *_own_ids(scratch), "-C", str(path), "-cf", "-", "."])


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


def _container_archive(path: Path, unpack: list[str]) -> str:
    """Return skopeo's word for an archive of an OCI or Docker image; empty for other archives."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        fd = file.fileno()
        if unpack:
            fd = stack.enter_context(open_program(unpack, fd)).fd
        try:
            reader = Reader(fd)
            found = set()
            for number, member in enumerate(members(reader)):
                name = os.fsdecode(member.path).removeprefix("./")
                if number == 0 and not _DOCKER.match(name):
                    break
                found.add(name)
                for _ in reader.stream(member.size + padding(member.size)):
                    pass
        except ImageError:
            return ""  # whoever reads it in earnest tells why
    if "manifest.json" in found:
        return "docker-archive"
    return "oci-archive" if "oci-layout" in found else ""


@contextmanager
def _oci(image: str, scratch: Path) -> Iterator[Stream]:
    """Let skopeo fetch an image's layers into a layout, and umoci unpack them."""
    skopeo = [need("skopeo", "skopeo"), "--insecure-policy", "copy", "--quiet"]
    umoci = [need("umoci", "umoci"), "unpack"]
    rootless = os.geteuid() != 0
    # There, umoci may set what only root may; owners it writes down in an attribute.
    inside = ["unshare", "--map-root-user", "--"] if rootless else []
    layout, bundle = f"{scratch / 'layout'}:image", scratch / "bundle"
    env = {**os.environ, "TMPDIR": str(scratch)}
    # Signatures are for registries; what lies here was brought by the one who asks.
    run([*skopeo, _without_colons(image, scratch), f"oci:{layout}"], env=env, timeout=1800)
    unpack = [*umoci, *(["--rootless"] if rootless else []), "--image", layout, str(bundle)]
    run([*inside, *unpack], env=env, timeout=1800)
    with open_program([*inside, *TAR, "-C", str(bundle / "rootfs"), "-cf", "-", "."]) as stream:
        yield stream


def _without_colons(image: str, scratch: Path) -> str:
    """Return skopeo's name of a file by a link, as it takes colons in paths for tags."""
    transport, _, rest = image.partition(":")
    path, tag = rest, ""
    if not Path(rest).exists():
        path, colon, last = rest.rpartition(":")
        tag = colon + last
    if not Path(path).exists():
        raise ImageError(f"{rest}: No such file or directory")
    link = scratch / "source"
    link.symlink_to(Path(path).resolve())
    return f"{transport}:{link}{tag}"


def need(program: str, package: str) -> str:
    """Return a program's name.

    Raises:
        ImageError: it is not installed.
    """
    if shutil.which(program) is None:
        raise ImageError(f"{program} is not installed on this machine: apt-get install {package}")
    return program
