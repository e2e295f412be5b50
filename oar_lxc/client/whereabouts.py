"""Where the containers of jobs were seen last: what saves asking OAR and all nodes each time.

A file for each job in the user's ``~/.cache/oar-lxc``. It is a hint and no more: the node itself
says whether the container is there, and where it is not, or the job is another one by now, all are
asked again.
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
from oar_lxc.linux.atomic import write_whole
from oar_lxc.model.layout import check_node

KEEP = 30 * 86400  # seconds
_LONGEST = 1 << 20  # bytes


def directory() -> str:
    """Return where the files are, whatever HOME says."""
    return f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/oar-lxc"


def recall(job_id: int) -> dict[str, str]:
    """Return the node of each container of a job, as far as it is known; never an error."""
    with suppress(OSError, ValueError, KeyError, AttributeError, RecursionError, UsageError):
        with open(f"{directory()}/{job_id}.json", opener=_carefully) as file:
            found = json.loads(file.read(_LONGEST))
        return {str(name): check_node(str(node)) for name, node in found.items()}
    return {}


def _carefully(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def remember(job_id: int, nodes: Mapping[str, str]) -> None:
    """Keep the node of each container of a job, and forget jobs of long ago; never an error."""
    with suppress(OSError, KeyError):
        place = directory()
        Path(place).mkdir(0o700, parents=True, exist_ok=True)
        write_whole(Path(place) / f"{job_id}.json", json.dumps(dict(nodes)))
        for name in os.listdir(place):
            path = f"{place}/{name}"
            old = os.lstat(path).st_mtime < time.time() - KEEP
            if old and re.fullmatch(r"\.?[0-9]+\.json(\.[0-9]+)?", name):
                os.unlink(path)


def forget(job_id: int) -> None:
    """Forget a job; never an error."""
    with suppress(OSError, KeyError):
        os.unlink(f"{directory()}/{job_id}.json")
