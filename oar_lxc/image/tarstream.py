"""Read and write tar archives as streams, member by member.

It reads the format before POSIX, the format of POSIX with pax headers, and GNU tar's long names
and incremental dumps. It always writes the same plain form. So two programs can never read
different contents from one archive.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from oar_lxc.errors import ImageError

BLOCK = 512
CHUNK = 1 << 20  # bytes; also the most that a pipe holds
END = b"\0" * (2 * BLOCK)
_EMPTY = bytes(BLOCK)

FILE, HARD_LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
LINKS = (HARD_LINK, SYMLINK)
_KINDS = (FILE, *LINKS, CHARACTER, DEVICE, DIRECTORY, FIFO)
_DUMP = b"D"  # GNU tar --listed-incremental: a directory, with the names in it as content
_SPARSE = b"S"
_XATTR = b"SCHILY.xattr."
_MOST_SIZE = 2**62  # bytes; no system has larger files
_MOST_EXTENDED = CHUNK  # bytes of one extended header
_OCTAL_8, _OCTAL_12 = 8**7 - 1, 8**11 - 1
_USTAR = b"ustar\0" + b"00" + bytes(32 + 32) + b"0000000\0" + b"0000000\0" + bytes(155 + 12)
_BLANKS = b" " * 8  # a checksum counts its own field as blanks
_ALWAYS = sum(_USTAR) + sum(_BLANKS)
_ADLER = 65521  # zlib sums bytes modulo this


class DamagedError(ImageError):
    """The data is damaged; the message says where."""


class TruncatedError(DamagedError):
    """An archive ends in the middle."""


@dataclass(slots=True)
class Member:
    """One member of an archive, as its headers describe it.

    Attributes:
        path: its name, as it is in the archive.
        kind: :data:`FILE`, :data:`HARD_LINK`, :data:`SYMLINK`, :data:`DIRECTORY` …
        mode: permission bits with set-user-id and the like.
        uid: owner.
        gid: group.
        size: bytes of content that follow; 0 for all but files.
        mtime: seconds since the epoch.
        target: target of a link.
        xattrs: extended attributes by name.
    """

    path: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return os.fsdecode(self.path)


class Reader:
    """Read bytes of a file or pipe in their order.

    Args:
        fd: the file or pipe, at its present position.
        size: how many bytes to read at most; None for all.
        on_data: called with each piece of data that is read. With it, nothing is skipped.

    Attributes:
        done: how many bytes the caller has taken.
    """

    def __init__(
        self,
        fd: int,
        size: int | None = None,
        on_data: Callable[[memoryview], object] | None = None,
    ) -> None:
        self._fd = fd
        self._left = size
        self._on_data = on_data
        self._chunk = memoryview(b"")
        self._at = 0
        self.done = 0

    def members(self) -> Iterator[Member]:
        """Yield the members of the archive, see :func:`members`."""
        return members(self)

    def take(self, size: int) -> memoryview:
        """Return the next bytes, at most :data:`CHUNK` of them.

        Raises:
            TruncatedError: there are fewer.
        """
        end = self._at + size
        if end > len(self._chunk):
            parts = [self._chunk[self._at :]]
            have = len(parts[0])
            while have < size:
                more = self._read()
                if not more:
                    raise TruncatedError("it ends in the middle")
                parts.append(more)
                have += len(more)
            self._chunk = memoryview(b"".join(parts)) if len(parts) > 2 or parts[0] else parts[1]
            self._at, end = 0, size
        view = self._chunk[self._at : end]
        self._at = end
        self.done += size
        return view

    def ended(self) -> bool:
        """Whether all bytes were taken."""
        if self._at == len(self._chunk):
            self._chunk, self._at = self._read(), 0
        return not self._chunk

    def stream(self, size: int) -> Iterator[memoryview]:
        """Yield the next bytes in pieces of any size."""
        while size:
            have = len(self._chunk) - self._at
            piece = self.take(min(size, have or min(size, BLOCK)))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Skip the next bytes; in a file, without reading them.

        Raises:
            TruncatedError: there are fewer; in a file, this may go unnoticed.
        """
        far = size - (len(self._chunk) - self._at)
        if far > CHUNK and self._on_data is None and self._left is None:
            try:
                os.lseek(self._fd, far, os.SEEK_CUR)
            except OSError:  # a pipe
                pass
            else:
                self._chunk, self._at = memoryview(b""), 0
                self.done += size
                return
        for _ in self.stream(size):
            pass

    def drain(self) -> None:
        """Read and discard the rest, so that the writer does not die of a closed pipe."""
        self._chunk, self._at = memoryview(b""), 0
        while self._read():
            pass

    def _read(self) -> memoryview:
        data = memoryview(
            os.read(self._fd, CHUNK if self._left is None else min(CHUNK, self._left))
        )
        if self._left is not None:
            self._left -= len(data)
        if self._on_data:
            self._on_data(data)
        return data


def padding(size: int) -> int:
    """Return how many bytes lie between a member's content and the next header."""
    return -size % BLOCK


def members(reader: Reader, *, marked: bool = True) -> Iterator[Member]:
    """Yield the members of an archive; the caller may read a file's content before the next.

    Args:
        reader: reads the archive.
        marked: whether the archive must end with the mark of its end. Without the mark, a cut
            between two members goes unnoticed.

    Raises:
        TruncatedError: the archive ends before its mark.
        DamagedError: a header is damaged.
        ImageError: it is not an archive, or has a member of a kind that cannot be read.
    """
    general: dict[bytes, bytes] = {}
    while True:
        extended = dict(general)
        long: dict[bytes, bytes] = {}
        while True:
            if not marked and reader.ended():
                return
            header = bytes(reader.take(BLOCK))
            if header == _EMPTY:
                return
            if not _is_whole(header):
                if reader.done == BLOCK:
                    raise ImageError("it is no tar archive")
                raise DamagedError("the checksum of a header is wrong")
            kind = header[156:157]
            if kind not in b"xgLKV":
                break
            size = _number(header[124:136])
            if not 0 <= size <= _MOST_EXTENDED:
                raise DamagedError(f"an extended header has {size} bytes")
            data = bytes(reader.take(size + padding(size))[:size])
            if kind == b"x":
                extended.update(_records(data))
            elif kind == b"g":
                general.update(_records(data))
                extended.update(general)
            elif kind != b"V":
                long[kind] = data.rstrip(b"\0")
        member = _member(header, extended, long)
        size = member.size
        if member.kind == _DUMP:
            member.kind, member.size = DIRECTORY, 0
        end = reader.done + size + padding(size)
        yield member
        reader.skip(end - reader.done)


def _member(header: bytes, extended: dict[bytes, bytes], long: dict[bytes, bytes]) -> Member:
    path = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        path = header[345:500].split(b"\0", 1)[0] + b"/" + path
    path = extended.get(b"path") or long.get(b"L") or path
    kind = header[156:157]
    if kind in (b"\0", b"7"):
        # In archives before POSIX, a slash at the end marks a directory.
        kind = DIRECTORY if path.endswith(b"/") and kind == b"\0" else FILE
    if kind not in (*_KINDS, _DUMP):
        raise _unreadable(path, kind)
    target = b""
    if kind in LINKS:
        target = extended.get(b"linkpath") or long.get(b"K") or header[157:257].split(b"\0", 1)[0]
    member = Member(
        path,
        kind,
        _number(header[100:108]) & 0o7777,
        _number(header[108:116]),
        _number(header[116:124]),
        _number(header[124:136]),
        _number(header[136:148]),
        target,
    )
    if extended:
        _apply(member, extended)
    # A program that unpacks ends a name at a byte 0, and so would use a name that was not checked.
    if b"\0" in b"".join((path, target, *member.xattrs)):
        raise ImageError(f"member {os.fsdecode(path)!r} has a byte 0 in a name")
    if kind not in (FILE, _DUMP):
        # Some programs write the size of a hard link's file here, or the disk space of a
        # directory, but no content follows. tar(1) and Docker ignore it, too.
        member.size = 0
    elif not 0 <= member.size <= _MOST_SIZE:
        raise DamagedError(f"member {member.name} has a size that no file has")
    return member


def _apply(member: Member, extended: dict[bytes, bytes]) -> None:
    try:
        for key in (b"uid", b"gid", b"size"):
            if key in extended:
                setattr(member, key.decode(), int(extended[key]))
        if b"mtime" in extended:
            member.mtime = int(extended[b"mtime"].split(b".")[0])
    except ValueError as error:
        raise DamagedError(f"member {member.name}: {error}") from error
    for key, value in extended.items():
        if key.startswith(_XATTR):
            name = key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")
            member.xattrs[name] = value
        elif key.startswith(b"GNU.sparse."):
            raise _unreadable(member.path, _SPARSE)


def _unreadable(path: bytes, kind: bytes) -> ImageError:
    name = os.fsdecode(path)
    if kind == _SPARSE:
        return ImageError(f"member {name} is packed as sparse: pack it anew without --sparse")
    if kind == b"M":
        return ImageError(
            f"member {name} goes on from another volume: pack it anew without --multi-volume"
        )
    return ImageError(
        f"member {name} is of kind {kind.decode('latin-1')!r}, which cannot be read: pack it anew "
        "with GNU tar"
    )


def _is_whole(header: bytes) -> bool:
    """Whether the checksum of a header is right.

    It is the sum of all bytes. The lower half of Adler-32 is the same sum, and computing it takes
    a tenth of the time.
    """
    try:
        told = _number(header[148:156])
    except DamagedError:
        return False
    adler = zlib.adler32(header[:148] + _BLANKS + header[156:], 0)
    return adler & 0xFFFF == told % _ADLER and 0 <= told <= BLOCK * 0xFF


def _number(text: bytes) -> int:
    """Return a number of a header: octal, or GNU tar's binary form with the first bit set."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") & ~(0x80 << 8 * (len(text) - 1))
        return value if text[0] == 0x80 else -1
    try:
        return int(text.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise DamagedError("a header has a number that is none") from error


def _records(data: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header; each is ``LENGTH KEY=VALUE`` and a newline."""
    found = {}
    at = 0
    while at < len(data):
        digits, blank, _ = data[at : at + 21].partition(b" ")
        size = int(digits) if digits.isdigit() else 0
        record = data[at : at + size]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not blank or not equals or len(record) < size or record[-1:] != b"\n":
            raise DamagedError("an extended header cannot be read")
        found[key] = value
        at += size
    return found


def header(member: Member) -> bytes:
    """Return a member's header, with an extended header before it if needed."""
    extended: list[bytes] = []
    path, target, size = member.path, member.target, member.size
    if len(path) > 100:
        extended.append(_record(b"path", path))
        path = b"long"
    if len(target) > 100:
        extended.append(_record(b"linkpath", target))
        target = b"long"
    if size > _OCTAL_12:
        extended.append(_record(b"size", b"%d" % size))
        size = 0
    for name in member.xattrs:
        key = _XATTR + name.replace(b"%", b"%25").replace(b"=", b"%3D")
        extended.append(_record(key, member.xattrs[name]))
    mtime = max(0, min(member.mtime, _OCTAL_12))
    block = _block(replace(member, path=path, target=target, size=size, mtime=mtime))
    if not extended:
        return block
    data = b"".join(extended)
    before = _block(Member(b"extended", b"x", size=len(data)))
    return before + data + bytes(padding(len(data))) + block


def _block(member: Member) -> bytes:
    """Return the header of a member whose fields are short enough for it."""
    uid, gid = member.uid, member.gid
    if max(uid, gid) > _OCTAL_8:
        raise ImageError(f"owner {uid}:{gid} of {os.fsdecode(member.path)} is out of range")
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0"
    numbers %= (member.mode, uid, gid, member.size, member.mtime)
    path, kind, target = member.path, member.kind, member.target
    checksum = sum(path) + sum(numbers) + sum(kind) + sum(target) + _ALWAYS
    path, target = path.ljust(100, b"\0"), target.ljust(100, b"\0")
    return b"%b%b%06o\0 %b%b%b" % (path, numbers, checksum, kind, target, _USTAR)


def _record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    if rest + len(str(size)) != size:
        size = rest + len(str(size))
    return b"%d %b=%b\n" % (size, key, value)
