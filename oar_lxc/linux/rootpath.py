"""Look up paths of an image from outside; links start at the image's root, not at the node's."""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path

from oar_lxc.linux.regular import read_regular

_MOST_LINKS = 40  # as the kernel's limit


def resolve(rootfs: Path, path: str) -> str:
    """Return a path inside an image with all links resolved; its end need not exist.

    Args:
        rootfs: the image's root directory.
        path: a path as it is inside.

    Returns:
        The absolute path inside. If links form a circle, the path so far.
    """
    left = deque(part for part in path.split("/") if part)
    here: list[str] = []
    links = 0
    while left:
        part = left.popleft()
        if part == ".":
            continue
        if part == "..":
            del here[-1:]
            continue
        place = rootfs.joinpath(*here, part)
        try:
            target = os.readlink(place)
        except OSError:
            here.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            here.append(part)
            break
        if target.startswith("/"):
            here.clear()
        left.extendleft(reversed([x for x in target.split("/") if x]))
    return "/" + "/".join(here)


def outside(rootfs: Path, path: str) -> Path:
    """Return the node's path of a path inside an image, with links resolved inside the image."""
    return rootfs / resolve(rootfs, path).lstrip("/")


def read_text(rootfs: Path, path: str) -> str:
    """Return the text of a file of an image; empty if there is no readable file."""
    try:
        return read_regular(outside(rootfs, path)).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def is_program(rootfs: Path, path: str) -> bool:
    """Whether a path of an image is a file that can be run."""
    try:
        mode = outside(rootfs, path).lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)
