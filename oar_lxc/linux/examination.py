"""Examine processes in a child, so that no process can block the caller.

Many files in ``/proc/PID`` cannot be read while the process is in execve(2), until the kernel has
closed its files, and a user can make that last for ever. The read blocks, and only SIGKILL ends
it. So one child examines all processes, and is killed if it blocks.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from oar_lxc.errors import TooLateError
from oar_lxc.linux.bounded import ANSWER, in_child
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.process import state

PATIENCE = 1.0  # seconds without a sign of life of the child
LEAST_PATIENCE = 0.05  # the same, after other processes have blocked a child
MOST_KEPT = 5  # blocking processes, after which no others are examined
_GOES_ON, _END = b".", b"\n"


def examine(
    waiting: Sequence[int], look: Callable[[int], str], deadline: Deadline = NEVER
) -> Iterator[tuple[int, str | None]]:
    """Yield each process with the answer of a function about it.

    The answer is None for a process that blocks the child. It is also None for all processes after
    :data:`MOST_KEPT` such ones, as a user can make very many, and if there can be no child.

    Args:
        waiting: the processes.
        look: examines a process, in the child. It returns a line without dots, and calls
            :func:`sign_of_life` now and then if it takes long.
        deadline: when to give up.

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


def sign_of_life() -> None:
    """Give a sign of life, in the child: it is busy, not blocked."""
    os.write(ANSWER, _GOES_ON)


def _answers(
    processes: Sequence[int], look: Callable[[int], str], patience: float, deadline: Deadline
) -> Iterator[str]:
    """Yield the answer about each process, up to the first that blocks the child.

    Raises:
        OSError: there can be no child.
    """

    def look_at_all() -> None:
        for pid in processes:
            os.write(ANSWER, look(pid).encode() + _END)

    text = b""
    with in_child(look_at_all) as (child, reader):
        while (told := select.select([reader], [], [], patience)[0]) or _is_busy(child):
            if deadline.passed:
                raise TooLateError("the time was over before all processes were looked at")
            if told:
                words = os.read(reader, 1 << 16)
                if not words:
                    return
                *lines, text = (text + words.replace(_GOES_ON, b"")).split(_END)
                yield from (line.decode() for line in lines)


def _is_busy(child: int) -> bool:
    """Whether a child runs, or waits for a busy CPU."""
    with suppress(OSError):
        return state(child) == b"R"
    return False
