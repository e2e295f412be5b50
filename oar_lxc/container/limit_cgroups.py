"""The limit cgroups: one for each container, which carries the container's limits.

A container's limit cgroup has the container's name and lies in the job's delegated cgroups. Inside
it, LXC makes another cgroup for the container's processes; with version 2, in one more cgroup that
:mod:`oar_lxc.container.starter` makes for each start. The container sees only the inner one:
as far as ids go, its root has the user's rights, and could lift limits in a cgroup that it saw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.container.limits import Limits, limit_files
from oar_lxc.container.lxc_config import MONITOR
from oar_lxc.errors import OarLxcError
from oar_lxc.linux.cgroups import remove_cgroups, thaw
from oar_lxc.linux.deadline import Deadline

CONTROLLERS = "cgroup.controllers"  # each cgroup of version 2 has this file


def make_limit_cgroups(paths: Sequence[str], name: str, limits: Limits) -> None:
    """Make a container's limit cgroup in each hierarchy, and set the limits.

    Args:
        paths: the job's delegated cgroups.
        name: the container.
        limits: what the container may use.

    Raises:
        OarLxcError: the kernel refuses, or has no such limit.
    """
    unified = any((Path(path) / CONTROLLERS).exists() for path in paths)
    left = dict(limit_files(limits, unified))
    for cgroup in [Path(path) / name for path in paths]:
        try:
            cgroup.mkdir(mode=0o755, exist_ok=True)
            if unified:
                _pass_on(cgroup)
            for file in [file for file in left if (cgroup / file).exists()]:
                (cgroup / file).write_text(left.pop(file))
        except OSError as error:
            raise OarLxcError(
                f"cannot limit container {name}: {error.filename or cgroup}: {error.strerror}"
            ) from error
    if left:
        raise OarLxcError(
            f"cannot limit container {name}: this node's kernel has no {', '.join(left)} in the "
            "job's cgroups"
        )


def _pass_on(cgroup: Path) -> None:
    """Let the cgroups below one of version 2 have all its controllers."""
    names = (cgroup / CONTROLLERS).read_text().split()
    (cgroup / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))


def remove_limit_cgroups(
    paths: Sequence[str], names: Sequence[str], wait: float = 1.0
) -> list[str]:
    """Remove the cgroups of stopped containers, and those of their monitors.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
        wait: seconds to wait until dead processes have left their cgroups.

    Returns:
        The cgroups that are left: they are busy, or the containers' root owns cgroups in them.
    """
    end = Deadline.after(wait)
    going = [*names, *(f"{MONITOR}.{name}" for name in names)]
    left = [Path(path) / name for path in paths for name in going]
    while left := [cgroup for cgroup in left if not remove_cgroups(cgroup)]:
        if end.passed:
            break
        time.sleep(0.002)
    return list(map(str, left))


def thaw_limit_cgroups(paths: Sequence[str], names: Sequence[str]) -> None:
    """Thaw containers, with all cgroups that they froze inside.

    Args:
        paths: the job's delegated cgroups.
        names: the containers.
    """
    for cgroup in [Path(path) / name for path in paths for name in names]:
        if any((cgroup / file).exists() for file in ("freezer.state", "cgroup.freeze")):
            thaw(cgroup)
