"""What is stopped or frozen for a moment, written down before, for whoever lets it go on.

A hook may be killed (SIGKILL) while it holds a user's processes still, and nothing else would ever
let them go on. So it writes down first what it is about to stop, in a file that it keeps locked:
one that nobody has locked is of somebody who was killed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PLACE = Path("/run/oar-lxc-halted")  # as processes do, it lasts until the next boot
FROZEN = "frozen"
STOPPED = "stopped"
_TRIES = 5
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Note = Callable[[str, object], None]  # is told the kind, and what it is


@contextmanager
def noted(place: Path = PLACE) -> Iterator[Note]:
    """Give what writes down that something is about to be stopped or frozen.

    By the end of the block it goes on. Where nothing can be written, it is stopped all the same:
    that the job ends is worth more.

    Args:
        place: the directory of the files.
    """
    path, fd = _create(place)

    def note(kind: str, what: object) -> None:
        if fd >= 0:
            with suppress(OSError):
                os.write(fd, f"{kind} {what}\n".encode())

    try:
        yield note
    finally:
        if fd >= 0:
            path.unlink(missing_ok=True)
            os.close(fd)


def _create(place: Path) -> tuple[Path, int]:
    """Return a new file and its descriptor, locked; -1 where there can be none."""
    for _ in range(_TRIES):
        path = place / f"{os.getpid()}-{time.monotonic_ns()}"
        with suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            if _lock(fd):  # else somebody else took it for one of a dead process, and removes it
                return path, fd
            os.close(fd)
    return place, -1


def _lock(fd: int) -> bool:
    """Lock an open file; return whether it is locked, and still has its name."""
    with suppress(OSError):
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process, and of no child of it
        return os.fstat(fd).st_nlink > 0
    return False


@contextmanager
def of_the_killed(place: Path = PLACE) -> Iterator[list[tuple[str, str]]]:
    """Give kind and name of all that was stopped by somebody who was killed meanwhile.

    By the end of the block it goes on, and is forgotten. The caller has nothing stopped itself: to
    close a file that it had locked would unlock that.

    Args:
        place: the directory of the files.
    """
    found: list[tuple[str, str]] = []
    held: list[tuple[Path, int]] = []
    try:
        for path in _files(place):
            with suppress(OSError):  # another removes it
                fd = os.open(path, _FLAGS)
                held.append((path, fd))
                if not _lock(fd):
                    os.close(held.pop()[1])
                    continue
                with open(fd, "rb", closefd=False) as file:
                    lines = file.read().decode("utf-8", "surrogateescape").split("\n")
                # Behind the last newline is nothing, or what was not written to its end: whoever
                # wrote that did not come to stop it.
                found += [(kind, what) for kind, _, what in (x.partition(" ") for x in lines[:-1])]
        yield found
        for path, _ in held:
            path.unlink(missing_ok=True)
    finally:
        for _, fd in held:
            os.close(fd)


def _files(place: Path) -> list[Path]:
    try:
        return [place / name for name in os.listdir(place)]
    except (FileNotFoundError, NotADirectoryError):
        return []
