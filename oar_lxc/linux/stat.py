"""Read the state, the parent and the start time of a process in ``/proc/PID/stat``."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
# Numbers of fields of proc(5), minus 3: :func:`fields` starts after the name.
_STATE, _PARENT, _START = 0, 1, 19


def fields(pid: int) -> list[bytes]:
    """Return the fields after the process's name; empty if the process is gone.

    The name may hold any characters.
    """
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:  # also ESRCH: the process ended while the file was read
        return []
    return text.rpartition(b")")[2].split()


def state(pid: int) -> str:
    """Return a process's state, a letter; empty if it is gone."""
    return "".join(field.decode() for field in fields(pid)[_STATE : _STATE + 1])


def parent(pid: int) -> int:
    """Return the number of a process's parent; 0 if it is gone."""
    return int(next(iter(fields(pid)[_PARENT:]), 0))


def start_time(pid: int) -> int:
    """Return a process's start time in clock ticks since the boot; 0 if it is gone."""
    return int(next(iter(fields(pid)[_START:]), 0))


def identity(pid: int) -> list[str]:
    """Return a process's number and start time, which no other process of the machine shares."""
    return [str(pid), str(start_time(pid) or "")]
