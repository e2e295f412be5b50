"""Compute the digest of all files of an image, which identifies the image.

It is the digest of one canonical text: each path with kind, mode, owner, size, content, link
target and extended attributes. Hard links refer to the first of their names. The text has no
times. So the same files have the same digest, whether packed or unpacked.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.errors import ImageError
from oar_lxc.image.tarstream import DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK

ROOT = b"."

# Extended attributes that an image keeps. Those of overlay file systems would change what
# containers see, and those of security modules belong to the machine that wrote them.
_KEPT = (b"user.", b"system.posix_acl_", b"security.capability")
_DROPPED = (b"user.overlay.", b"user.rootlesscontainers")


_MOST_LINKS = 40  # the kernel's limit


@dataclass(slots=True)
class Entry:
    """One path of an image.

    Attributes:
        kind: as in a tar archive.
        mode: permission bits.
        uid: owner.
        gid: group.
        size: bytes of content.
        content: SHA-256 of a file's content, in hexadecimal digits; empty for all other kinds.
        target: target of a symbolic link; for a hard link, the name of the file that it shares.
        xattrs: the extended attributes that are kept.
    """

    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int = 0
    content: str = ""
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Manifest:
    """All paths of an image.

    Attributes:
        entries: by path without a leading slash; the root is :data:`ROOT`.
        left_out: how many devices of the source were left out, as containers get their own.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.left_out = 0

    @property
    def size(self) -> int:
        """Bytes of all files' contents."""
        return sum(entry.size for entry in self.entries.values())

    def resolve(self, path: bytes) -> list[bytes]:
        """Follow the links of a path inside the image, as a container does.

        Args:
            path: without a leading slash.

        Returns:
            The targets of the links on the way, and last a path that is not a link and need not
            exist. Empty if the links form a circle.
        """
        way: list[bytes] = []
        waiting = path.split(b"/")[::-1]
        at = ROOT
        while waiting:
            part = waiting.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                at = at.rpartition(b"/")[0] or ROOT
                continue
            at = part if at == ROOT else at + b"/" + part
            entry = self.entries.get(at)
            if entry is not None and entry.kind == HARD_LINK:
                entry = self.entries[entry.target]
            if entry is not None and entry.kind == SYMLINK:
                if len(way) == _MOST_LINKS:
                    return []
                way.append(entry.target)
                waiting += entry.target.split(b"/")[::-1]
                at = ROOT if entry.target.startswith(b"/") else at.rpartition(b"/")[0] or ROOT
        return [*way, at]

    def leads(self, path: bytes) -> bool:
        """Whether a path leads to an existing file."""
        return any(step in self.entries for step in self.resolve(path)[-1:])

    def digest(self) -> str:
        """Return ``sha256:`` and the digest of the image's files."""
        first: dict[bytes, bytes] = {}
        names: dict[bytes, list[bytes]] = {}
        for path, entry in self.entries.items():
            if entry.kind == HARD_LINK:
                names.setdefault(entry.target, [entry.target]).append(path)
        for group in names.values():
            first.update(dict.fromkeys(group, min(group)))
        total = hashlib.sha256()
        for path in sorted(self.entries):
            entry = self.entries[path]
            if path in first:
                if path != first[path]:
                    total.update(b"%b\0%b\0hard link\n" % (path, first[path]))
                    continue
                if entry.kind == HARD_LINK:
                    entry = self.entries[entry.target]
            total.update(_line(path, entry))
        return f"sha256:{total.hexdigest()}"


def _line(path: bytes, entry: Entry) -> bytes:
    xattrs = "".join(f" {n.hex()}={v.hex()}" for n, v in sorted(entry.xattrs.items()))
    facts = (
        f"{entry.kind.decode()} {entry.mode:o} {entry.uid} {entry.gid} {entry.size} "
        f"{entry.content}{xattrs}\n"
    )
    return b"%b\0%b\0%b" % (path, entry.target, facts.encode())


def kept_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the extended attributes that an image keeps."""
    return {
        name: value
        for name, value in xattrs.items()
        if name.startswith(_KEPT) and not name.startswith(_DROPPED)
    }


def read_tree(root: Path, progress: Callable[[int], None] = lambda size: None) -> Manifest:
    """Read an unpacked image from disk.

    Args:
        root: its root directory.
        progress: called with each number of bytes that were read.

    Raises:
        ImageError: there is a file of a kind that no image has.
        OSError: a file cannot be read.
    """
    manifest = Manifest()
    seen: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    waiting = [ROOT]
    while waiting:
        path = waiting.pop()
        full = os.path.join(top, path)  # noqa: PTH118  # bytes
        status = os.lstat(full)
        manifest.entries[path] = _entry(path, full, status, seen, progress)
        if stat.S_ISDIR(status.st_mode):
            prefix = b"" if path == ROOT else path + b"/"
            waiting += [prefix + name for name in os.listdir(full)]
    return manifest


_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
}


def _entry(
    path: bytes,
    full: bytes,
    status: os.stat_result,
    seen: dict[tuple[int, int], bytes],
    progress: Callable[[int], None],
) -> Entry:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise ImageError(f"{os.fsdecode(full)} is a device or a socket, which no image has")
    mode = stat.S_IMODE(status.st_mode) if kind != SYMLINK else 0o777
    entry = Entry(kind, mode, status.st_uid, status.st_gid)
    if kind != DIRECTORY and status.st_nlink > 1:
        other = seen.setdefault((status.st_dev, status.st_ino), path)
        if other != path:
            return Entry(HARD_LINK, 0, 0, 0, target=other)
    if kind == SYMLINK:
        entry.target = os.readlink(full)
        return entry
    if kind == FILE:
        entry.size = status.st_size
        entry.content = _content(full, status.st_size)
        progress(status.st_size)
    names = os.listxattr(full, follow_symlinks=False)
    if names:
        found = {os.fsencode(n): os.getxattr(full, n, follow_symlinks=False) for n in names}
        entry.xattrs = kept_xattrs(found)
    return entry


def _content(full: bytes, size: int) -> str:
    fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if size < 1 << 16:
            return hashlib.sha256(os.read(fd, 1 << 16)).hexdigest()
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
            return hashlib.sha256(content).hexdigest()
    finally:
        os.close(fd)
