"""Keep users away from the files of public images that would give them root's rights.

An image holds set-user-id programs of root. A user who reached one through the store would be
root on the node, so only root may enter the store. Jobs see the store through mounts without
set-user-id bits and with shifted user ids. A file whose owner is outside the shifted range cannot
be opened by a container's root.
"""

from __future__ import annotations

import os
from pathlib import Path

# No container and no user of the node has this id; a container's root sees "nobody" as the owner.
NOBODYS = 0xFFFF0000


def why_open(store: Path) -> str:
    """Return why others than root may enter a store, and what to do; empty if they may not."""
    place = Path(os.path.realpath(store))
    for parent in place.parents:
        try:
            status = parent.stat()
        except FileNotFoundError:
            return ""  # the code that makes it lets only root enter
        if status.st_uid == 0 and not status.st_mode & 0o011:
            return ""
    return (
        f"everybody may enter the store of images {store}, whose programs may be set-user-id "
        f"root: let only root enter a directory above it (chmod 700 {place.parent}), or set "
        "images.store to one below such a directory"
    )


def keep_from_containers(path: Path | int) -> None:
    """Give a file or directory of root to :data:`NOBODYS`, so that no container may use it."""
    if os.geteuid() == 0:
        os.chown(path, NOBODYS, 0)
