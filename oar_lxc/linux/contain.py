"""Commands that mount things on the way, run so that nothing of them can outlive them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.linux.run import run


def contained(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another in mount and process namespaces of its own.

    What it mounts is never seen on the host, and all its processes end with the caller, also
    where the caller is killed.
    """
    return [*mortal(["unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]), *argv]


def mortal(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another and lets it be killed when the caller ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


def mounts_below(path: Path, table: str | None = None) -> list[str]:
    """Return the mount points at and below a directory, the deepest first.

    Args:
        path: the directory.
        table: the mount table, as in /proc/self/mounts; read from there where None.
    """
    text = Path("/proc/self/mounts").read_text() if table is None else table
    # The kernel writes blanks and backslashes in names as three octal digits.
    points = [_unescape(line.split(" ")[1]) for line in text.splitlines()]
    return sorted(
        (p for p in points if p == str(path) or p.startswith(f"{path}/")), key=len, reverse=True
    )


def unmount_below(path: Path) -> None:
    """Unmount all at and below a directory, so that removing it removes nothing else's files."""
    for point in mounts_below(path):
        run(["umount", "--lazy", point])


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
