"""Remove the lines for jobs that version 0.1 left in files of other packages.

It let each job's user map ids by ``/etc/subuid`` and ``/etc/subgid``, and plug links into bridges
by ``/etc/lxc/lxc-usernet``; LXC counted the links in ``/run/lxc/nics``. Containers that run do not
need the lines again.
"""

from __future__ import annotations

import fcntl
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from oar_lxc.linux.lock import locked
from oar_lxc.linux.regular import read_regular
from oar_lxc.root.id_ranges import COUNT, is_first_id
from oar_lxc.setup.files import diff, write_through
from oar_lxc.setup.steps import SetupError, Step

SHADOW_LOCK = Path("/etc/.pwd.lock")  # of lckpwdf(3), under which useradd(8) edits its files
PATIENCE = 10.0  # seconds


def is_range(line: str) -> bool:
    """Whether a line of ``/etc/subuid`` or ``/etc/subgid`` is the range of a job."""
    found = re.fullmatch(r"[^:]+:([0-9]{1,10}):([0-9]{1,10})", line)
    return found is not None and int(found[2]) == COUNT and is_first_id(int(found[1]))


def is_of_bridge(line: str) -> bool:
    """Whether a line of LXC's two files is about the bridge of a job."""
    words = line.split()
    return len(words) == 4 and bool(re.fullmatch(r"olb[1-9][0-9]{0,9}", words[2]))


FILES: Mapping[Path, Callable[[str], bool]] = {
    Path("/etc/subuid"): is_range,
    Path("/etc/subgid"): is_range,
    Path("/etc/lxc/lxc-usernet"): is_of_bridge,
    Path("/run/lxc/nics"): is_of_bridge,
}


def step(files: Mapping[Path, Callable[[str], bool]] = FILES, lock: Path = SHADOW_LOCK) -> Step:
    """Make the step that removes the lines.

    Args:
        files: the files, each with what tells whether a line is a job's.
        lock: the lock under which other programs edit them.
    """

    def pending() -> str | None:
        changes = [diff(path, old, new) for path, old, new in _changes(files)]
        return "".join(filter(None, changes)) or None

    def apply() -> None:
        with locked(lock, PATIENCE, fcntl.lockf):
            for path, _, new in _changes(files):
                status = path.stat()
                data = new.encode("utf-8", "surrogateescape")
                mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
                write_through(path, data, mode, owner)

    return Step("no line for a job is left of version 0.1", pending, apply)


def _changes(
    files: Mapping[Path, Callable[[str], bool]],
) -> Iterator[tuple[Path, str, str]]:
    """Yield each file that has lines of jobs, with its text and the text without them."""
    for path, is_ours in files.items():
        try:
            old = read_regular(path, follow=True).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SetupError(f"{path} cannot be read ({error.strerror}): mend it") from error
        lines = old.split("\n")
        new = "\n".join(line for line in lines if not is_ours(line))
        if new != old:
            yield path, old, new
