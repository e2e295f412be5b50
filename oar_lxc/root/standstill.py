"""Hold what else a user runs on a node still, while root removes what that could write to.

A process of the user's own, in another of their jobs or in none, can keep an open file of the
job's cgroups and go on putting processes into them. It may keep it anywhere: in a socket's queue,
a ring, a mount. So nobody is looked for: all of the user's stop for a moment, until the cgroups
are gone, and with them what any such file is good for.

Who does that may be killed meanwhile. What was to be stopped is written down before, and whoever
destroys or reaps next lets it go on.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from oar_lxc.linux.log import NodeLog
from oar_lxc.linux.looking import look_at
from oar_lxc.root import halted
from oar_lxc.root.job_cgroups import JobCgroups, thaw_frozen
from oar_lxc.root.ownership import Whose
from oar_lxc.root.processes import Handles, is_still, is_stopped, job_processes, start_time

LONGEST = 1.0  # seconds until all have stopped; what does not by then goes on
MOMENT = 0.002  # seconds


@contextmanager
def standstill(cgroups: JobCgroups, whose: Whose) -> Iterator[None]:
    """Stop the user's processes that are not the job's until the end of the block.

    Those of other jobs are frozen besides, as processes that fork without a rest are faster than
    a look. What was stopped or frozen before stays so.

    Args:
        cgroups: the job's cgroups.
        whose: the job's ids, and its user's.
    """
    with halted.noted() as note, cgroups.neighbours_frozen(), Handles() as handles:
        stopped: set[int] = set()
        try:
            end = time.monotonic() + LONGEST
            while time.monotonic() < end:
                others: set[int] = set()
                job_processes(cgroups, whose, others=others)
                new = {pid for pid in others - stopped if not is_stopped(pid)}
                if not new:
                    break
                for pid in new:
                    handles.hold(pid)
                stopped |= new
                for pid, start in _start_times(new):
                    if start is None:  # it is in execve(2), and does nothing meanwhile
                        new.remove(pid)
                    else:
                        note(halted.STOPPED, f"{pid} {start}")
                handles.signal(new, signal.SIGSTOP)
                while not all(map(is_still, new)) and time.monotonic() < end:
                    time.sleep(MOMENT)
            yield
        finally:
            handles.signal(stopped, signal.SIGCONT)


def let_go(log: NodeLog) -> None:
    """Let go on what was stopped or frozen by somebody who was killed meanwhile.

    That is what they wrote down, where it is the same process still.

    Args:
        log: is told how many processes and cgroups that were.
    """
    done = 0
    with halted.of_the_killed() as found, Handles() as handles:
        stopped: set[tuple[int, str | None]] = set()
        for kind, what in found:
            if kind == halted.FROZEN:
                done += thaw_frozen(Path(what))
            elif match := re.fullmatch(r"([0-9]{1,10}) ([0-9]{1,20})", what):
                handles.hold(int(match[1]))
                stopped.add((int(match[1]), match[2]))
        for same in stopped.intersection(_start_times({pid for pid, _ in stopped})):
            # Whether it is stopped yet or not: what is frozen besides stops only later.
            handles.signal([same[0]], signal.SIGCONT)
            done += 1
    if done:
        log.write("let go on", "warning", number=done, why="a destroy was killed")


def _start_times(pids: Collection[int]) -> Iterator[tuple[int, str | None]]:
    return look_at(sorted(pids), lambda pid: str(start_time(pid)))
