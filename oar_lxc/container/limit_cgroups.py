"""The cgroups that carry the limits of containers.

Each container has a cgroup of its own in the delegated ones, named after it, which carries its
limits and in which LXC makes that of the container's processes. A container sees only the inner
one: its root, who has the user's own rights as far as ids go, could lift limits that it saw.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.container.lxc_config import MONITOR, Limits, limit_files
from oar_lxc.errors import OarLxcError


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


def remove_walls(paths: Sequence[str], names: Sequence[str], wait: float = 1.0) -> list[str]:
    """Remove the cgroups of stopped containers, those of their monitors too.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
        wait: seconds for processes that have only just died.

    Returns:
        Those that are left, as what is below is the containers' root's; or busy.
    """
    end = time.monotonic() + wait
    going = [*names, *(f"{MONITOR}.{name}" for name in names)]
    found = []
    for path in paths:
        try:
            parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # the job has ended
            continue
        try:
            left = going
            while left := [name for name in left if not _remove(parent, name)]:
                if time.monotonic() > end:
                    break
                time.sleep(0.002)
            found += [f"{path}/{name}" for name in left]
        finally:
            os.close(parent)
    return found


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
    for wall in [Path(path) / name for path in paths for name in names]:
        if not (wall / "freezer.state").exists():
            continue
        for where, _, _ in os.walk(wall):
            with suppress(OSError):
                (Path(where) / "freezer.state").write_text("THAWED")
