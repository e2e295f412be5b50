"""The cgroups that carry the limits of containers.

Each container has a cgroup of its own in the delegated ones, named after it, which carries its
limits and in which LXC makes that of the container's processes. A container sees only the inner
one: its root, who has the user's own rights as far as ids go, could lift limits that it saw.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.lxcconfig import CGROUP, PIVOT, Limits, limit_files


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
    for wall in _walls(paths, name):
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


def remove_walls(paths: Sequence[str], names: Sequence[str], wait: float = 1.0) -> None:
    """Remove the cgroups of stopped containers; the job's end removes what is left.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
        wait: seconds for processes that have only just died.
    """
    end = time.monotonic() + wait
    left = [wall for name in names for wall in _walls(paths, name) if wall.is_dir()]
    while left:
        for wall in left:
            for where, _, _ in os.walk(wall, topdown=False):
                with suppress(OSError):
                    Path(where).rmdir()
        left = [wall for wall in left if wall.is_dir()]
        if not left or time.monotonic() > end:
            return
        time.sleep(0.002)


def thaw(paths: Sequence[str], names: Iterable[str]) -> None:
    """Thaw containers that were frozen, from inside too: what is frozen does not die.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
    """
    freezers = [Path(path) for path in paths if (Path(path) / "freezer.state").exists()]
    for wall in (freezer / name for freezer in freezers for name in names):
        while wall.is_dir():
            for cgroup in (wall, wall / CGROUP):
                with suppress(OSError):
                    (cgroup / "freezer.state").write_text("THAWED")
            wall = wall / PIVOT / wall.name  # where it is since it was booted anew


def _walls(paths: Sequence[str], name: str) -> Iterator[Path]:
    return (Path(path) / name for path in paths)
