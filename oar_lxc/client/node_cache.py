"""A cache of the node of each container, so that OAR and all nodes need not be asked each time.

It has one file for each job in the user's ``~/.cache/oar-lxc``. An entry is only a hint: the node
itself checks whether it has the container. If it does not, or if the number is now another job's,
OAR and all nodes are asked again.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import UsageError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.model.layout import check_node

KEEP = 30 * 86400  # seconds
_LONGEST = 1 << 20  # bytes


def directory() -> str:
    """Return the cache's directory, in the home directory of the user's account; ignore HOME."""
    return f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/oar-lxc"


def recall(job_id: int) -> dict[str, str]:
    """Return the node of each container of a job, as far as known; never raise an error."""
    with suppress(OSError, ValueError, KeyError, AttributeError, RecursionError, UsageError):
        with open(f"{directory()}/{job_id}.json", opener=_carefully) as file:
            found = json.loads(file.read(_LONGEST))
        return {str(name): check_node(str(node)) for name, node in found.items()}
    return {}


def _carefully(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def remember(job_id: int, nodes: Mapping[str, str]) -> None:
    """Record the node of each container of a job, and remove old files; never raise an error."""
    with suppress(OSError, KeyError):
        place = directory()
        Path(place).mkdir(0o700, parents=True, exist_ok=True)
        write_atomic(Path(place) / f"{job_id}.json", json.dumps(dict(nodes)))
        for name in os.listdir(place):
            path = f"{place}/{name}"
            old = os.lstat(path).st_mtime < time.time() - KEEP
            if old and re.fullmatch(r"\.?[0-9]+\.json(\.[0-9]+)?", name):
                os.unlink(path)


def forget(job_id: int) -> None:
    """Remove the file of a job; never raise an error."""
    with suppress(OSError, KeyError):
        os.unlink(f"{directory()}/{job_id}.json")
