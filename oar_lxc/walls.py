"""The cgroups that carry the limits of containers.

Each container has a cgroup of its own in the delegated ones, named after it, which carries its
limits and in which LXC makes that of the container's processes. A container sees only the inner
one: its root, who has the user's own rights as far as ids go, could lift limits that it saw.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.lxcconfig import CGROUP, MONITOR, PIVOT, Limits, limit_files

NO_DIRECTORY_BELOW = 2  # links of a directory: its name and its "."


def make_walls(paths: Sequence[str], name: str, limits: Limits) -> None:
    """Make the cgroups that carry a container's limits.

    Args:
        paths: the job's delegated cgroups.
        name: the container.
        limits: what it may use.

    Raises:
        OarLxcError: the kernel refused.
    """
    left = dict(limit_files(limits))
    for wall in [Path(path) / name for path in paths]:
        try:
            wall.mkdir(mode=0o755, exist_ok=True)
            for file in [file for file in left if (wall / file).exists()]:
                (wall / file).write_text(left.pop(file))
        except OSError as error:
            raise OarLxcError(
                f"cannot limit container {name}: {error.filename or wall}: {error.strerror}"
            ) from error
    if left:
        raise OarLxcError(
            f"cannot limit container {name}: this node's kernel has no {', '.join(left)} in the "
            "job's cgroups"
        )


def divided(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return cgroups in which containers' own systems made others: theirs alone to remove.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
    """
    found = []
    for name in names:
        for inner in [place / CGROUP for path in paths for place in _places(path, name)]:
            with suppress(FileNotFoundError):
                if inner.stat().st_nlink > NO_DIRECTORY_BELOW:
                    found.append(str(inner))
    return found


def remove_walls(paths: Sequence[str], names: Sequence[str], wait: float = 1.0) -> None:
    """Remove the cgroups of stopped containers; the job's end removes what is left.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
        wait: seconds for processes that have only just died.
    """
    end = time.monotonic() + wait
    going = [*names, *(f"{MONITOR}.{name}" for name in names)]
    for path in paths:
        parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            left = going
            while left := [name for name in left if not _remove(parent, name)]:
                if time.monotonic() > end:
                    break
                time.sleep(0.002)
        finally:
            os.close(parent)


def _remove(parent: int, name: str) -> bool:
    """Remove a cgroup with all below it; return whether it is gone."""
    for _ in range(2):
        try:
            os.rmdir(name, dir_fd=parent)
            return True
        except FileNotFoundError:
            return True
        except OSError:  # mostly for what is below it, which goes first
            for below in _below(parent, name):
                _remove(parent, below)
    return False


def _below(parent: int, name: str) -> list[str]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            return [f"{name}/{x.name}" for x in entries if x.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)


def thaw(paths: Sequence[str], names: Sequence[str]) -> None:
    """Thaw containers that were frozen, from inside too: what is frozen does not die.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
    """
    freezers = [path for path in paths if (Path(path) / "freezer.state").exists()]
    for name in names:
        for place in [place for path in freezers for place in _places(path, name)]:
            for cgroup in (place, place / CGROUP):
                with suppress(OSError):
                    (cgroup / "freezer.state").write_text("THAWED")


def _places(path: str, name: str) -> Iterator[Path]:
    """Yield a container's own cgroups in a hierarchy, deeper each time it was booted anew."""
    place = Path(path) / name
    while place.is_dir():
        yield place
        place = place / PIVOT / name
