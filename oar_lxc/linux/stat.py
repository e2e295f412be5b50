"""What the kernel says of a process in ``/proc/PID/stat``."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
# Numbers of fields of proc(5), less the three up to the name's end.
_STATE, _PARENT, _START = 0, 1, 19


def fields(pid: int) -> list[bytes]:
    """Return the fields after the name, which may hold anything; none where it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:  # ESRCH too: it ended while it was read
        return []
    return text.rpartition(b")")[2].split()


def state(pid: int) -> str:
    """Return a process's state, a letter; empty where it is gone."""
    return "".join(field.decode() for field in fields(pid)[_STATE : _STATE + 1])


def parent(pid: int) -> int:
    """Return a process's parent; 0 where it is gone."""
    return int(next(iter(fields(pid)[_PARENT:]), 0))


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since the kernel did; 0 where it is gone."""
    return int(next(iter(fields(pid)[_START:]), 0))


def identity(pid: int) -> list[str]:
    """Return what tells a process from all others of its machine, before and after it."""
    return [str(pid), str(start_time(pid) or "")]
