"""Look at processes so that none of them keeps the one who looks waiting.

Whoever reads much of ``/proc/PID`` waits for a process in execve(2) until its files are closed,
which its user makes last for good. No signal but SIGKILL ends that: a child looks, one for all of
them, and is given up.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import TooLateError
from oar_lxc.linux.bounded import bury

PATIENCE = 1.0  # seconds without a word of the child that looks
LEAST_PATIENCE = 0.05  # where others have kept one waiting already
MOST_KEPT = 5  # that keep one waiting, after which no others are looked at
_GOES_ON, _END = b".", b"\n"
_MOST = 1 << 20  # descriptors
_ANSWER = 3  # the descriptor that the child keeps


def look_at(
    waiting: Sequence[int], look: Callable[[int], str], deadline: float = float("inf")
) -> Iterator[tuple[int, str | None]]:
    """Yield what a look tells of each of some processes.

    That is None where a process keeps from being looked at, and for all that come after some of
    these, as a user can make as many as there is time for; also where there can be no child.

    Args:
        waiting: the processes.
        look: looks at one, in a child; it answers with a line without dots, and calls
            :func:`goes_on` where it takes long.
        deadline: monotonic time.

    Raises:
        TooLateError: the deadline has passed.
    """
    patience = PATIENCE
    for _ in range(MOST_KEPT):
        if not waiting:
            return
        done = 0
        with suppress(OSError):
            for answer in _answers(waiting, look, patience, deadline):
                yield waiting[done], answer
                done += 1
        if done < len(waiting):
            yield waiting[done], None
            patience = max(LEAST_PATIENCE, patience / 2)
        waiting = waiting[done + 1 :]
    for pid in waiting:
        yield pid, None


def goes_on() -> None:
    """Tell, in the child, that it is kept busy and not waiting."""
    os.write(_ANSWER, _GOES_ON)


def _answers(
    processes: Sequence[int], look: Callable[[int], str], patience: float, deadline: float
) -> Iterator[str]:
    """Yield what is told of each process, up to one that keeps us waiting.

    Raises:
        OSError: there can be no child.
    """
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if child == 0:
        try:
            os.setpgid(0, 0)
            # It may stay for long, and would keep others' locks.
            os.dup2(writer, _ANSWER)
            os.closerange(_ANSWER + 1, _MOST)
            for pid in processes:
                os.write(_ANSWER, look(pid).encode() + _END)
        finally:
            os._exit(0)
    os.close(writer)
    with suppress(OSError):  # it has done so itself, or is gone
        os.setpgid(child, child)
    text = b""
    try:
        while (told := select.select([reader], [], [], patience)[0]) or _is_busy(child):
            if time.monotonic() > deadline:
                raise TooLateError("the time was over before all processes were looked at")
            if told:
                words = os.read(reader, 1 << 16)
                if not words:
                    return
                *lines, text = (text + words.replace(_GOES_ON, b"")).split(_END)
                yield from (line.decode() for line in lines)
    finally:
        os.close(reader)
        # With its own child, which somebody may have stopped in a namespace of theirs: that has
        # our streams, and whoever reads these would wait for it.
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        bury(child)


def _is_busy(child: int) -> bool:
    """Whether a child of ours runs, or would, on a node whose CPUs have too much to do."""
    with suppress(OSError):
        return b"\nState:\tR" in Path(f"/proc/{child}/status").read_bytes()
    return False
