"""Check and hash a tar stream, member by member, on its way into a store; there is no other way.

The output has new headers and the hashed contents. So GNU tar or zstd at the other end reads
nothing that was not checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

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
    header,
    padding,
)

DEV = b"dev/"  # a container mounts its own devices there
MOUNT_POINTS = (b"dev", b"proc", b"sys")
IDS = 65536  # a container's ids, from 0
_ROOTLESS = b"user.rootlesscontainers"
_MOST_VIEWS = 512  # less than writev(2)'s limit of 1024


class Source(Protocol):
    """A source of members: an archive, or several."""

    @property
    def done(self) -> int:
        """How many bytes were read."""

    def members(self) -> Iterator[Member]:
        """Yield the members; the caller may read a file's content before it takes the next."""

    def stream(self, size: int) -> Iterator[memoryview]:
        """Yield the content of the last member."""

    def drain(self) -> None:
        """Read and discard all data after the last member."""


@dataclass
class Checked:
    """The members so far, and the rules for the next one.

    Attributes:
        manifest: the manifest of the members so far.
        names: for each file with several names, the other names by the first.
        devices: paths of the devices that were left out.
    """

    manifest: Manifest = field(default_factory=Manifest)
    names: dict[bytes, list[bytes]] = field(default_factory=dict)
    devices: set[bytes] = field(default_factory=set)

    def path_of(self, text: bytes) -> bytes:
        """Return a member's name without a leading ``./``, ``.`` and double slashes.

        Raises:
            ImageError: it leads out of the root, or goes through a link or a file.
        """
        if text.startswith(b"/"):
            raise ImageError(
                f"member {os.fsdecode(text)} has an absolute name: pack it with names below its "
                "root (tar -C DIRECTORY -cf FILE .)"
            )
        plain = text[2:] if text.startswith(b"./") else text
        if plain and b"//" not in plain and b"./" not in plain and not plain.endswith(b"."):
            return plain.removesuffix(b"/") or ROOT
        parts = [part for part in text.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ImageError(f"member {os.fsdecode(text)} leads out of the root by '..'")
        return b"/".join(parts) or ROOT

    def missing_parents(self, path: bytes) -> list[bytes]:
        """Return the directories above a member that are not in the archive so far.

        Raises:
            ImageError: a path above the member is not a directory.
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

    def leaves_out(self, member: Member, path: bytes) -> bool:
        """Whether a member is a device below /dev, or a hard link to one; both are left out."""
        device = member.kind in (CHARACTER, DEVICE) and path.startswith(DEV)
        if not device and not (member.kind == HARD_LINK and member.target in self.devices):
            return False
        self.devices.add(path)
        self.manifest.left_out = len(self.devices)
        return True

    def forget(self, path: bytes) -> None:
        """Remove a path that comes again; other names of the same file stay."""
        self.devices.discard(path)
        entry = self.manifest.entries.pop(path, None)
        if entry is None:
            return
        if entry.kind == HARD_LINK:
            self.names[entry.target].remove(path)
            return
        first, *others = self.names.pop(path, None) or [b""]
        if first:
            self.manifest.entries[first] = entry
            self.names[first] = others
            for other in others:
                self.manifest.entries[other].target = first

    def check(self, member: Member, path: bytes) -> None:
        """Refuse a member that no image may have.

        Raises:
            ImageError: it is one.
        """
        if member.kind in (CHARACTER, DEVICE):
            raise ImageError(
                f"member {member.name} is a device, which no image may have outside of /dev: pack "
                f"it without (tar --exclude='{member.name}'), or remove it from the image"
            )
        if not (0 <= member.uid < IDS and 0 <= member.gid < IDS):
            raise ImageError(
                f"member {member.name} belongs to {member.uid}:{member.gid}; a container has the "
                f"ids from 0 to {IDS - 1}"
            )
        before = self.manifest.entries.get(path)
        if before is not None and (before.kind == DIRECTORY) != (member.kind == DIRECTORY):
            raise ImageError(
                f"member {member.name} is there twice, once as a directory: pack the tree anew"
            )
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
                    "file of the archive before it: pack the tree anew"
                )


def _climbs_out(path: bytes, target: bytes) -> bool:
    """Whether a relative link has so many ``..`` that it names a path above the root."""
    if target.startswith(b"/"):
        return False  # it starts at the container's root
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


class OutputPipe:
    """The pipe that gets the checked stream, in few large writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._views: list[bytes | memoryview] = []
        self._size = 0

    def add(self, view: bytes | memoryview) -> None:
        """Append bytes; they may be written later."""
        self._views.append(view)
        self._size += len(view)
        if self._size >= CHUNK or len(self._views) >= _MOST_VIEWS:
            self.flush()

    def flush(self) -> None:
        """Write all bytes that wait.

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
    source: Source,
    output: int | None,
    progress: Callable[[int], None] = lambda size: None,
    *,
    complete: bool = False,
) -> Manifest:
    """Read all members, check them, and write the checked members as an archive.

    If a path occurs twice, the last member counts, as with tar(1).

    Args:
        source: the source of the members.
        output: a pipe for the archive; None only checks and hashes.
        progress: called with each number of bytes that were read.
        complete: add the directories on which a container mounts, if they are missing.

    Returns:
        The manifest of all members.

    Raises:
        ImageError: the source is truncated or damaged, or has a member that no image may have.
        BrokenPipeError: the program that reads the pipe has ended.
    """
    out = OutputPipe(output) if output is not None else None
    checked = Checked()
    entries = checked.manifest.entries
    told = 0
    for member in source.members():
        path = checked.path_of(member.path)
        if member.kind == HARD_LINK:
            member.target = checked.path_of(member.target)
        if checked.leaves_out(member, path):
            continue
        for parent in checked.missing_parents(path):
            entries[parent] = Entry(DIRECTORY, 0o755, 0, 0)
            if out:
                out.add(header(Member(_written(parent), DIRECTORY, 0o755)))
        if member.xattrs:
            _own(member)
            member.xattrs = kept_xattrs(member.xattrs)
        checked.check(member, path)
        if member.kind == HARD_LINK:
            other = entries[member.target]
            shared = other.target if other.kind == HARD_LINK else member.target
            before = entries.get(path)
            if path == shared or (before and (before.kind, before.target) == (HARD_LINK, shared)):
                continue  # the file has this name already
            checked.forget(path)
            checked.names.setdefault(shared, []).append(path)
            entries[path] = Entry(HARD_LINK, 0, 0, 0, target=shared)
            member = Member(path, HARD_LINK, target=_written(shared))
        else:
            if member.kind != DIRECTORY:
                checked.forget(path)
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
            entries[path].content = _content(source, member.size, out)
        if source.done - told > CHUNK:
            progress(source.done - told)
            told = source.done
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
    source.drain()
    return checked.manifest


def _content(source: Source, size: int, out: OutputPipe | None) -> str:
    total = hashlib.sha256()
    for piece in source.stream(size):
        total.update(piece)
        if out:
            out.add(piece)
    rest = padding(size)
    if rest and out:
        out.add(bytes(rest))
    return total.hexdigest()


def _written(path: bytes) -> bytes:
    return ROOT + b"/" if path == ROOT else b"./" + path


def _own(member: Member) -> None:
    """Use the owner in the attribute that a program writes if it unpacks without root's rights.

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
