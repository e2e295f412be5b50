"""Read the kernel's tables of mounts, and unmount what is below a directory.

Users choose the names in them. The kernel escapes only blank, tab, newline and backslash. So a
line ends at a newline, and a field at a single blank, not at other white space that Python knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.linux.run import run

MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class MountEntry:
    """One mount, as proc(5) describes ``mountinfo``.

    Attributes:
        device: major and minor number of the file system.
        root: which directory of the file system is mounted.
        point: where it is mounted.
        kind: type of the file system.
        options: options of the file system.
        id: the kernel's number of the mount.
        parent: the kernel's number of the mount below it.
    """

    device: str
    root: str
    point: Path
    kind: str
    options: tuple[str, ...]
    id: int = 0
    parent: int = 0


def read_mounts(
    path: Path = MOUNTINFO, *, kinds: Collection[bytes] = (), below: Path | None = None
) -> Iterator[MountEntry]:
    """Yield the mounts of a process, in the order they were mounted.

    A node has hundreds of mounts; the filters spare the caller most of the parsing.

    Args:
        path: the table.
        kinds: types of file systems; all types if empty.
        below: yield only mounts at or below this directory.

    Raises:
        OSError: the process is gone.
    """
    start = os.fsencode(below) if below else b""
    if any(byte in start for byte in b" \t\n\\"):  # the kernel escapes these
        start = b""
    for line in path.read_bytes().split(b"\n"):
        before, _, after = line.partition(b" - ")
        if kinds and after.partition(b" ")[0] not in kinds:
            continue
        fields = before.split(b" ")
        if len(fields) <= 4 or not fields[4].startswith(start):
            continue
        tail = after.split(b" ")
        if len(tail) > 2 and (not below or Path(_text(fields[4])).is_relative_to(below)):
            options = tuple(os.fsdecode(tail[2]).split(","))
            device, root, point = map(_text, fields[2:5])
            number, parent = (int(field) if field.isdigit() else 0 for field in fields[:2])
            yield MountEntry(device, root, Path(point), _text(tail[0]), options, number, parent)


def _text(field: bytes) -> str:
    if b"\\" not in field:
        return os.fsdecode(field)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def mounts_below(path: Path, table: Path = MOUNTINFO) -> list[Path]:
    """Return the mount points at and below a directory, the deepest first.

    Args:
        path: the directory.
        table: the table of mounts.
    """
    points = [mount.point for mount in read_mounts(table, below=path)]
    return sorted(points, key=lambda point: len(point.parts), reverse=True)


def unmount_below(path: Path) -> None:
    """Unmount all at and below a directory; its removal then deletes no mounted files."""
    for point in mounts_below(path):
        run(["umount", "--lazy", str(point)])
