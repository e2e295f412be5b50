"""Note which processes and cgroups are stopped or frozen, so that another hook can resume them.

A hook may be killed (SIGKILL) while it has stopped a user's processes. Then nothing would ever
resume them. So the hook first notes what it will stop, in a file that it keeps locked. A file
without a lock is from a killed hook.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.linux.lock import take

PLACE = Path("/run/oar-lxc-halted")  # on /run: like processes, it lasts until the next boot
FROZEN = "frozen"
STOPPED = "stopped"
_TRIES = 5
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Note = Callable[[str, object], None]  # arguments: kind, and process or cgroup


@contextmanager
def noted(place: Path = PLACE) -> Iterator[Note]:
    """Yield a function that notes what the caller will stop or freeze.

    The caller resumes all of it before the block ends. If the note cannot be written, the caller
    goes on without it, as the end of the job is more important.

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
    """Return a new file and its descriptor, locked; -1 if no file can be made."""
    for _ in range(_TRIES):
        path = place / f"{os.getpid()}-{time.monotonic_ns()}"
        with suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            if _lock(fd):  # else another hook took it for a killed hook's file, and removes it
                return path, fd
            os.close(fd)
    return place, -1


def _lock(fd: int) -> bool:
    """Lock an open file; return whether that succeeded and the file still has a name."""
    with suppress(OSError):
        # Of this kind, as children do not inherit it.
        return take(fd, 0, fcntl.lockf) and os.fstat(fd).st_nlink > 0
    return False


@contextmanager
def of_the_killed(place: Path = PLACE) -> Iterator[list[tuple[str, str]]]:
    """Yield kind and name of all that killed hooks have stopped.

    The caller resumes all of it in the block; then the files are removed. The caller must not be
    inside :func:`noted`, as closing its file here would release its lock.

    Args:
        place: the directory of the files.
    """
    found: list[tuple[str, str]] = []
    held: list[tuple[Path, int]] = []
    try:
        for path in _files(place):
            with suppress(OSError):  # another process has removed it
                fd = os.open(path, _FLAGS)
                held.append((path, fd))
                if not _lock(fd):
                    os.close(held.pop()[1])
                    continue
                with open(fd, "rb", closefd=False) as file:
                    lines = file.read().decode("utf-8", "surrogateescape").split("\n")
                # After the last newline there is nothing or an incomplete note; its hook was
                # killed before it stopped the process.
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
