"""Receive an image that is pushed to this machine, in chunks with digests; a push can resume.

The received chunks stay in a file in the store until all are there. Then the image is imported and
published like any other, whole or not at all. Launches never wait for it.
"""

from __future__ import annotations

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
from oar_lxc.image.importing import import_image
from oar_lxc.image.record import DIGEST
from oar_lxc.image.store import Store
from oar_lxc.linux.lock import take
from oar_lxc.linux.store_access import keep_from_containers
from oar_lxc.model.image_name import ImageName

CHUNK = 4 << 20  # bytes
PRESENT = "present"  # the answer of a node that has the image
_PART = ".push-"
_KEPT = 7 * 86400.0  # seconds after which an incomplete push is removed
_MOST_HEADER = 16 << 20


@dataclass(frozen=True)
class Header:
    """The line of JSON before an image's bytes.

    Attributes:
        image: its name.
        digest: the digest of its files.
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
        """Return the line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Header:
        """Read the line of JSON.

        Raises:
            ImageError: it is not a header.
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
        """The name of the file with the chunks that were received so far."""
        whole = hashlib.sha256("".join(self.chunks).encode()).hexdigest()
        return f"{_PART}{whole[:32]}"


def offer(store: Store, header: Header) -> str:
    """Return :data:`PRESENT`, or how many chunks of an image were received before.

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
    """Receive the chunks that follow a header, and publish the image when all are there.

    Raises:
        ImageError: a chunk is damaged or missing; the chunks before it stay for the next try.
    """
    name = ImageName.parse(header.image)
    if offer(store, header) == PRESENT:
        _drain(stream)
        return
    with store.half():
        pass  # makes the store, and removes half-made images
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
    """Check all chunks again, as a crash may have damaged those of an earlier try."""
    file.seek(0)
    for number, digest in enumerate(header.chunks):
        if hashlib.sha256(file.read(CHUNK)).hexdigest() != digest:
            os.ftruncate(file.fileno(), number * CHUNK)
            raise ImageError(f"chunk {number} was damaged on this disk: push again")


@contextmanager
def _part(store: Store, header: Header, stream: BinaryIO) -> Iterator[BinaryIO]:
    """Open the file of received chunks; if another process receives the same, wait for it."""
    path = store.root / header.part
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "r+b") as file:
        keep_from_containers(fd)
        if not take(fd, 0):
            _drain(stream)  # before the wait, or the sender would wait, too
            take(fd)
            if not store.has(ImageName.parse(header.image)):
                raise ImageError(
                    f"another push of image {header.image} to {store.root} failed: push again"
                )
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
    """Read the header from the first line of a stream.

    Raises:
        ImageError: the line is not a header.
    """
    return Header.from_line(stream.readline(_MOST_HEADER))


def header_of(archive: Path, image: str, digest: str, source: str) -> Header:
    """Make the header for a push of an archive."""
    chunks = []
    with archive.open("rb") as file:
        while data := file.read(CHUNK):
            chunks.append(hashlib.sha256(data).hexdigest())
    return Header(image, digest, source, archive.stat().st_size, tuple(chunks))
