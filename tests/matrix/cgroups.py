"""Cgroups of a node's processes, in whichever version the node has."""

from __future__ import annotations

from tests.matrix.world import World

ROOT = "/sys/fs/cgroup"


def directory(text: str, controller: str) -> str:
    """Return the directory of a process's cgroup.

    Args:
        text: its ``/proc/PID/cgroup``.
        controller: of version 1; with version 2 alone there is one directory for all.
    """
    paths = {names: path for _, names, path in (x.split(":", 2) for x in text.splitlines())}
    for names, path in paths.items():
        if controller in names.split(","):
            return f"{ROOT}/{controller}{path}"
    return ROOT + paths[""]


def freezing(path: str) -> str:
    """Return the shell line that freezes a cgroup."""
    return f"cd {path} && if [ -e freezer.state ]; then echo FROZEN >freezer.state; " + (
        "else echo 1 >cgroup.freeze; fi"
    )


def is_frozen(world: World, node: str, path: str) -> bool:
    """Whether a cgroup on a node is frozen, by itself or by one above it."""
    line = f"cd {path} && cat freezer.state 2>/dev/null || cat cgroup.events"
    return bool({"FROZEN", "frozen 1"} & {*world.on(node, "sh", "-c", line).stdout.splitlines()})
