"""Take an image that is pushed to this machine: in chunks, each with its digest, resumable.

What was received stays beside the images until all of it is there; the image itself is published
as any other import, whole or not at all. Whoever starts a container meanwhile never waits.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from oar_lxc.errors import ImageError
from oar_lxc.image.make import import_image
from oar_lxc.image.record import DIGEST
from oar_lxc.image.store import Store
from oar_lxc.linux.closed import keep_from_jobs
from oar_lxc.model.image_name import ImageName

CHUNK = 4 << 20  # bytes
PRESENT = "present"  # the answer of who needs nothing
_PART = ".push-"
_KEPT = 7 * 86400.0  # seconds after which what nobody completed is removed
_MOST_HEADER = 16 << 20


@dataclass(frozen=True)
class Header:
    """What comes before an image's bytes, as a line of JSON.

    Attributes:
        image: its name.
        digest: that of its tree.
        source: what it was made from.
        size: bytes of the archive.
        chunks: SHA-256 of each :data:`CHUNK` of the archive.
        first: number of the first chunk that follows.
    """

    image: str
    digest: str
    source: str
    size: int
    chunks: tuple[str, ...]
    first: int = 0

    def to_line(self) -> bytes:
        """Return the line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Header:
        """Read the line.

        Raises:
            ImageError: it is none.
        """
        try:
            data = json.loads(line)
            header = cls(**{**data, "chunks": tuple(data["chunks"])})
            ImageName.parse(header.image)
            right = (
                DIGEST.fullmatch(header.digest)
                and all(DIGEST.fullmatch(f"sha256:{chunk}") for chunk in header.chunks)
                and 0 <= header.first <= len(header.chunks)
                and -(-header.size // CHUNK) == len(header.chunks) > 0
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ImageError(f"what came is no pushed image: {error}") from error
        if not right:
            raise ImageError("what came is no pushed image: its header is damaged")
        return header

    @property
    def part(self) -> str:
        """The name of the file that has what was received so far."""
        whole = hashlib.sha256("".join(self.chunks).encode()).hexdigest()
        return f"{_PART}{whole[:32]}"


def offer(store: Store, header: Header) -> str:
    """Tell what is there of an image: :data:`PRESENT`, or how many chunks.

    Raises:
        ImageError: another image has its name.
    """
    name = ImageName.parse(header.image)
    if store.has(name):
        digest = store.record(name).digest
        if digest == header.digest:
            return PRESENT
        raise ImageError(
            f"image {name} exists already in {store.root}, with another digest, "
            f"{digest or 'or none'}: remove it there, or push under another tag"
        )
    try:
        return str((store.root / header.part).stat().st_size // CHUNK)
    except FileNotFoundError:
        return "0"


def receive(store: Store, header: Header, stream: BinaryIO) -> None:
    """Take the chunks that follow a header, and publish the image when all are there.

    Raises:
        ImageError: a chunk is not what it should be, or does not come; what came before stays, for
            the next try.
    """
    name = ImageName.parse(header.image)
    if offer(store, header) == PRESENT:
        _drain(stream)
        return
    with store.half():
        pass  # makes the store, and removes what was left half made
    _sweep(store)
    with _part(store, header, stream) as file:
        if store.has(name):
            return  # the nodes share the store
        have = os.fstat(file.fileno()).st_size // CHUNK
        if have < header.first:
            raise ImageError(
                f"chunk {have} did not come, {header.first} was the first: push again"
            )
        os.ftruncate(file.fileno(), have * CHUNK)
        for number in range(header.first, len(header.chunks)):
            size = min(CHUNK, header.size - number * CHUNK)
            data = stream.read(size)
            if len(data) < size:
                raise ImageError(
                    f"chunk {number} of {len(header.chunks)} did not come: push again"
                )
            if number < have:
                continue
            if hashlib.sha256(data).hexdigest() != header.chunks[number]:
                raise ImageError(f"chunk {number} is damaged: push again")
            file.write(data)
            file.flush()
        _check(file, header)
        path = store.root / header.part
        import_image(store, name, str(path), expected=header.digest, origin=header.source)
        path.unlink()


def _check(file: BinaryIO, header: Header) -> None:
    """Read again what an earlier try had left, which may be of a crash."""
    file.seek(0)
    for number, digest in enumerate(header.chunks):
        if hashlib.sha256(file.read(CHUNK)).hexdigest() != digest:
            os.ftruncate(file.fileno(), number * CHUNK)
            raise ImageError(f"chunk {number} was damaged on this disk: push again")


@contextmanager
def _part(store: Store, header: Header, stream: BinaryIO) -> Iterator[BinaryIO]:
    """Open what was received so far; where another receives the same, let it have the work."""
    path = store.root / header.part
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "r+b") as file:
        keep_from_jobs(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _drain(stream)  # before the wait, or what sends it would wait too
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not store.has(ImageName.parse(header.image)):
                raise ImageError(
                    f"another push of image {header.image} to {store.root} failed: push again"
                ) from None
        file.seek(0, os.SEEK_END)
        file.seek(file.tell() // CHUNK * CHUNK)
        yield file


def _sweep(store: Store) -> None:
    for path in store.root.glob(f"{_PART}*"):
        if time.time() - path.lstat().st_mtime > _KEPT:
            path.unlink(missing_ok=True)


def _drain(stream: BinaryIO) -> None:
    while stream.read(CHUNK):
        pass


def read_header(stream: BinaryIO) -> Header:
    """Read the line that comes first.

    Raises:
        ImageError: it is none.
    """
    return Header.from_line(stream.readline(_MOST_HEADER))


def header_of(archive: Path, image: str, digest: str, source: str) -> Header:
    """Return the header of an archive that is to be pushed."""
    chunks = []
    with archive.open("rb") as file:
        while data := file.read(CHUNK):
            chunks.append(hashlib.sha256(data).hexdigest())
    return Header(image, digest, source, archive.stat().st_size, tuple(chunks))
