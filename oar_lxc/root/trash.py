"""Move directories of ended jobs out of all users' reach, and remove them as time allows.

A user may leave more files than can be removed before a hook's deadline. Renaming the job's
directory takes no time. The reaper removes later what is not removed in time.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import CommandTimeoutError, OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.removal import remove_tree
from oar_lxc.linux.run import run
from oar_lxc.model.layout import JobLayout

REAPER = "oar-lxc-reap.service"


def discard(layout: JobLayout, log: NodeLog, deadline: Deadline) -> None:
    """Remove a job's directory; leave to the reaper what is not removed in time.

    Args:
        layout: the job's names.
        log: gets a line if something is left to the reaper.
        deadline: by when it must be over.

    Raises:
        OarLxcError: a file could not be removed.
    """
    target = layout.trash / f"{layout.job_id}-{time.time_ns()}"
    with suppress(OSError):
        layout.trash.mkdir(mode=0o700)
    try:
        layout.directory.rename(target)
    except FileNotFoundError:
        pass
    except OSError:
        # It or its parent is a mount point, the disk is full, or it is not a directory: remove it
        # where it is.
        remove_tree(layout.directory, deadline.timeout())
    for path in trash_of(layout):
        try:
            remove_tree(path, deadline.timeout())
        except CommandTimeoutError:
            log.write("handed over", "warning", to=REAPER, path=str(path))
            with suppress(OarLxcError):  # its timer will start it
                run(["systemctl", "start", "--no-block", REAPER], timeout=2)


def trash_of(layout: JobLayout) -> list[Path]:
    """Return the directories of a job in the trash."""
    return [path for path in list_trash(layout.trash) if job_of(path) == layout.job_id]


def list_trash(directory: Path) -> list[Path]:
    """Return all paths in the trash."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [directory / name for name in sorted(os.listdir(directory))]
    return []


def job_of(path: Path) -> int:
    """Return the job of a directory in the trash; 0 if its name does not tell."""
    match = re.fullmatch(r"([0-9]{1,10})-[0-9]+", path.name)
    return int(match[1]) if match else 0
