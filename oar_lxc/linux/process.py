"""Read facts of processes in ``/proc``.

Files such as status and stat of a process can mostly be read at any time. But stat blocks while
the process is in execve(2) (:mod:`oar_lxc.linux.examination`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

CHUNK = 1 << 16
# Fields of /proc/PID/stat, counted from the state (proc(5)).
_FLAGS, _START = 6, 19
_PF_KTHREAD = 0x00200000  # linux/sched.h: a flag of the kernel's own


def pids() -> Iterator[int]:
    """Yield the ids of all processes of this machine."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def owner(pid: int) -> int:
    """Return the user id under which a process runs; -1 if it is gone."""
    words = status_words(f"/proc/{pid}/status", b"Uid")
    return int(words[0]) if words else -1


def ids_of(path: str) -> list[bytes]:
    """Return the ids in a process's or thread's status; the first is the real user id.

    These are the user ids and group ids, each real, effective, saved and of the file system, and
    the supplementary groups. Empty if it is gone.
    """
    text = _text(path)
    return [word for key in (b"Uid", b"Gid", b"Groups") for word in _words(text, key)]


def status_words(path: str, key: bytes) -> list[bytes]:
    """Return the words in a line of a process's or thread's status; empty if it is gone.

    Args:
        path: its file ``status``.
        key: the word before the colon.
    """
    return _words(_text(path), key)


def state(pid: int, task: str = "") -> bytes:
    """Return the state of a process or of one of its threads, a letter; empty if it is gone."""
    path = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    return _word(_text(path), b"State")


def is_zombie(pid: int) -> bool:
    """Whether a process is a zombie or gone.

    A process whose first thread has ended also looks like a zombie, but has other threads.
    """
    text = _text(f"/proc/{pid}/status")
    return not text or _is_dead(text)


def is_first(pid: int) -> bool:
    """Whether a process is the first one of a PID namespace within this process's."""
    numbers = status_words(f"/proc/{pid}/status", b"NSpid")
    return len(numbers) > 1 and numbers[-1] == b"1"


def threads(pid: int) -> int:
    """Return how many threads a process has; 0 if it is dead, or the kernel's own."""
    text = _text(f"/proc/{pid}/status")
    if not text or _is_dead(text) or _is_kernels(pid, text):
        return 0
    return int(_word(text, b"Threads"))


def parent(pid: int) -> int:
    """Return the number of a process's parent; 0 if it is gone."""
    return int(_word(_text(f"/proc/{pid}/status"), b"PPid") or b"0")


def ancestry() -> set[int]:
    """Return this process and its ancestors."""
    found = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = parent(pid)
    return found


def start_time(pid: int) -> int:
    """Return a process's start time in clock ticks since the boot; 0 if it is gone.

    A user's process can make this block.
    """
    fields = _stat(pid)
    return int(fields[_START]) if fields else 0


def identity(pid: int) -> list[str]:
    """Return a process's number and start time, which no other process of the machine shares.

    The start time is empty if the process is gone, or if the caller may not see it.
    """
    start = 0
    with suppress(PermissionError):  # /proc is mounted with hidepid, and it is another user's
        start = start_time(pid)
    return [str(pid), str(start or "")]


def read_proc(path: str) -> bytes:
    """Read a file of ``/proc``; for one process, one read mostly returns all of it.

    Raises:
        OSError: it cannot be read; the process may be gone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, CHUNK)
        while len(text) % CHUNK == 0 and (more := os.read(fd, CHUNK)):
            text += more
        return text
    finally:
        os.close(fd)


def _text(path: str) -> bytes:
    """Return the text of a file of ``/proc``; empty if the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return read_proc(path)
    return b""


def _words(text: bytes, key: bytes) -> list[bytes]:
    return text.partition(b"\n" + key + b":")[2].partition(b"\n")[0].split()


def _word(text: bytes, key: bytes) -> bytes:
    """Return the first word in a line of a status; empty without such a line."""
    return b"".join(_words(text, key)[:1])


def _is_dead(text: bytes) -> bool:
    return _word(text, b"State") in (b"Z", b"X") and int(_word(text, b"Threads")) <= 1


def _is_kernels(pid: int, text: bytes) -> bool:
    """Whether a process is the kernel's own; its status says so from Linux 6.8 on."""
    if told := _word(text, b"Kthread"):
        return told == b"1"
    if _word(text, b"VmSize"):
        return False
    fields = _stat(pid)  # never blocks: without memory, it is not in execve(2)
    return bool(fields) and int(fields[_FLAGS]) & _PF_KTHREAD != 0


def _stat(pid: int) -> list[bytes]:
    """Return the fields of a process's stat from its state on; empty if it is gone.

    The name before the state may hold any characters, also brackets.
    """
    return _text(f"/proc/{pid}/stat").rpartition(b")")[2].split()
