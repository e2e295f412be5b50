"""The one way into a store: a tar stream that is checked, hashed and handed on, member by member.

What is handed on are headers written anew and contents that were hashed; GNU tar or zstd at the
other end sees nothing that was not checked before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from oar_lxc.errors import ImageError
from oar_lxc.image.manifest import ROOT, Entry, Manifest, kept_xattrs
from oar_lxc.image.tarstream import (
    CHARACTER,
    CHUNK,
    DEVICE,
    DIRECTORY,
    END,
    FILE,
    HARD_LINK,
    SYMLINK,
    Member,
    Reader,
    header,
    members,
    padding,
)

MOUNT_POINTS = (b"dev", b"proc", b"sys")
IDS = 65536  # what a container has, from 0
_ROOTLESS = b"user.rootlesscontainers"
_MOST_VIEWS = 512  # writev(2) takes 1024


@dataclass
class Checked:
    """Members that were seen, and the rules that the next one has to keep."""

    manifest: Manifest = field(default_factory=Manifest)

    def path_of(self, text: bytes) -> bytes:
        """Return a member's name in its plain form.

        Raises:
            ImageError: it leads out of the root, or goes through a link or a file.
        """
        if text.startswith(b"/"):
            raise ImageError(f"member {os.fsdecode(text)} has an absolute name")
        plain = text[2:] if text.startswith(b"./") else text
        if plain and b"//" not in plain and b"./" not in plain and not plain.endswith(b"."):
            return plain.removesuffix(b"/") or ROOT
        parts = [part for part in text.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ImageError(f"member {os.fsdecode(text)} leads out of the root by '..'")
        return b"/".join(parts) or ROOT

    def missing_parents(self, path: bytes) -> list[bytes]:
        """Return the directories above a member that the archive did not have.

        Raises:
            ImageError: one of them is no directory.
        """
        missing = []
        entries = self.manifest.entries
        while path != ROOT:
            path = path.rpartition(b"/")[0] or ROOT
            entry = entries.get(path)
            if entry is None:
                missing.append(path)
            elif entry.kind != DIRECTORY:
                what = "a link" if entry.kind == SYMLINK else "no directory"
                raise ImageError(
                    f"something below member {os.fsdecode(path)}, which is {what}: nothing may "
                    "lie behind it"
                )
            else:
                break
        return missing[::-1]

    def check(self, member: Member, path: bytes) -> None:
        """Refuse what no image may have.

        Raises:
            ImageError: it is such.
        """
        if member.kind in (CHARACTER, DEVICE):
            raise ImageError(
                f"member {member.name} is a device, which no image may have: pack it without (tar "
                "--exclude='./dev/*'), containers get theirs when they start"
            )
        if not (0 <= member.uid < IDS and 0 <= member.gid < IDS):
            raise ImageError(
                f"member {member.name} belongs to {member.uid}:{member.gid}; a container has the "
                f"ids from 0 to {IDS - 1}"
            )
        before = self.manifest.entries.get(path)
        if before is not None and not before.kind == member.kind == DIRECTORY:
            raise ImageError(f"member {member.name} is there twice")
        if path == ROOT and member.kind != DIRECTORY:
            raise ImageError(f"member {member.name} is the root and no directory")
        if member.kind == SYMLINK:
            if not member.target:
                raise ImageError(f"link {member.name} leads nowhere")
            if _climbs_out(path, member.target):
                raise ImageError(
                    f"link {member.name} leads out of the root, to {os.fsdecode(member.target)}"
                )
        elif member.kind == HARD_LINK:
            entry = self.manifest.entries.get(member.target)
            if entry is None or entry.kind == DIRECTORY:
                raise ImageError(
                    f"hard link {member.name} leads to {os.fsdecode(member.target)}, which is no "
                    "file of the archive before it"
                )


def _climbs_out(path: bytes, target: bytes) -> bool:
    """Whether a relative link names something above the root, by its words alone."""
    if target.startswith(b"/"):
        return False  # a container's root is where it begins
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


class Output:
    """Where the checked stream goes: a pipe, in few large writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._views: list[bytes | memoryview] = []
        self._size = 0

    def add(self, view: bytes | memoryview) -> None:
        """Append some bytes; they may be written later."""
        self._views.append(view)
        self._size += len(view)
        if self._size >= CHUNK or len(self._views) >= _MOST_VIEWS:
            self.flush()

    def flush(self) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: the program at the other end has ended.
        """
        while self._views:
            written = os.writev(self._fd, self._views)
            done = 0
            for view in self._views:
                if written < len(view):
                    break
                written -= len(view)
                done += 1
            del self._views[:done]
            if written:
                self._views[0] = memoryview(self._views[0])[written:]
        self._size = 0


def ingest(
    source: int,
    output: int | None,
    progress: Callable[[int], None] = lambda size: None,
    *,
    complete: bool = False,
) -> Manifest:
    """Read an archive to its end, check it, and write what was checked.

    Args:
        source: a file or pipe to read an archive from.
        output: a pipe to write it to; None only checks and hashes.
        progress: is told how many bytes were read, each time some were.
        complete: add the directories that a container mounts things on, where they are missing.

    Returns:
        All that the tree holds.

    Raises:
        ImageError: it is truncated, damaged, or has what no image may have.
        BrokenPipeError: the program that reads ended.
    """
    reader, out = Reader(source), Output(output) if output is not None else None
    checked = Checked()
    entries = checked.manifest.entries
    told = 0
    for member in members(reader):
        path = checked.path_of(member.path)
        for parent in checked.missing_parents(path):
            entries[parent] = Entry(DIRECTORY, 0o755, 0, 0)
            if out:
                out.add(header(Member(_written(parent), DIRECTORY, 0o755)))
        if member.kind == HARD_LINK:
            member.target = checked.path_of(member.target)
        if member.xattrs:
            _own(member)
            member.xattrs = kept_xattrs(member.xattrs)
        checked.check(member, path)
        if member.kind == HARD_LINK:
            other = entries[member.target]
            shared = other.target if other.kind == HARD_LINK else member.target
            entries[path] = Entry(HARD_LINK, 0, 0, 0, target=shared)
            member = Member(path, HARD_LINK, target=_written(shared))
        else:
            mode = 0o777 if member.kind == SYMLINK else member.mode
            entries[path] = Entry(
                member.kind,
                mode,
                member.uid,
                member.gid,
                member.size,
                target=member.target,
                xattrs=member.xattrs,
            )
        member.path = _written(path)
        if out:
            out.add(header(member))
        if member.kind == FILE:
            entries[path].content = _content(reader, member.size, out)
        if reader.done - told > CHUNK:
            progress(reader.done - told)
            told = reader.done
    if len(entries) < 2:
        raise ImageError("it has nothing in it")
    for path in MOUNT_POINTS if complete else ():
        if path not in entries:
            entries[path] = Entry(DIRECTORY, 0o755, 0, 0)
            if out:
                out.add(header(Member(_written(path), DIRECTORY, 0o755)))
    if out:
        out.add(END)
        out.flush()
    reader.drain()
    return checked.manifest


def _content(reader: Reader, size: int, out: Output | None) -> str:
    total = hashlib.sha256()
    for piece in reader.stream(size):
        total.update(piece)
        if out:
            out.add(piece)
    rest = padding(size)
    if rest:
        reader.take(rest)
        if out:
            out.add(bytes(rest))
    return total.hexdigest()


def _written(path: bytes) -> bytes:
    return ROOT + b"/" if path == ROOT else b"./" + path


def _own(member: Member) -> None:
    """Take the owner that an unpacker without root's rights wrote down instead of setting it.

    The attribute is a message of two numbers: https://github.com/rootless-containers/proto
    """
    text = member.xattrs.get(_ROOTLESS)
    if text is None:
        return
    numbers = {1: 0, 2: 0}
    at = 0
    while at < len(text):
        key = text[at]
        at, value, shift = at + 1, 0, 0
        while at < len(text) and shift < 35:
            value |= (text[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not text[at - 1] & 0x80:
                break
        if key & 7 or key >> 3 not in numbers:
            raise ImageError(
                f"member {member.name} has an attribute {_ROOTLESS.decode()} that cannot be read"
            )
        numbers[key >> 3] = value
    none = 0xFFFFFFFF  # "as it is"
    member.uid = member.uid if numbers[1] == none else numbers[1]
    member.gid = member.gid if numbers[2] == none else numbers[2]
