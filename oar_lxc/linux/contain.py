"""Run commands that mount file systems, so that no mount or process of them is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oar_lxc.linux.mounts import MOUNTINFO, read_mounts
from oar_lxc.linux.run import run


def contained(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another in mount and process namespaces of its own.

    The host never sees its mounts. All its processes end with the caller, also if the caller is
    killed.
    """
    return [*mortal(["unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]), *argv]


def mortal(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another, which the kernel kills when the caller ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


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
