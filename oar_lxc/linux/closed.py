"""What of the public images is kept from their users: they hold programs that are root's.

Set-user-id programs of an image are root's on the node as long as anybody but root can come to
them by the store itself. Jobs see the store through mounts where such bits count for nothing, and
where the ids of files are shifted: what has an id that is shifted to none of theirs is nothing
that a container's root could open.
"""

from __future__ import annotations

import os
from pathlib import Path

# Beyond what containers have inside, and nobody's outside: a container's root sees it as nobody's.
NOBODYS = 0xFFFF0000


def why_open(store: Path) -> str:
    """Return why a store is open to others than root, and what to do; nothing where it is not."""
    place = Path(os.path.realpath(store))
    for parent in place.parents:
        try:
            status = parent.stat()
        except FileNotFoundError:
            return ""  # who makes it lets only root enter
        if status.st_uid == 0 and not status.st_mode & 0o011:
            return ""
    return (
        f"everybody may enter the store of images {store}, whose programs may be set-user-id "
        f"root: let only root enter a directory above it (chmod 700 {place.parent}), or set "
        "images.store to one below such a directory"
    )


def keep_from_jobs(path: Path | int) -> None:
    """Give a file or directory of root's to nobody, so that no container's root may use it."""
    if os.geteuid() == 0:
        os.chown(path, NOBODYS, 0)
