"""The standstill: stop a user's processes while root removes what they could write to.

A process of the user, in another job or in none, can keep a file of the job's cgroups open and put
processes into them. The open file may be hidden in a socket's queue, a ring, or a mount, so there
is no way to find its process. So all of the user's processes stop for a moment, until the cgroups
are gone and the open file is useless.

The hook may be killed during a standstill. So it first notes what it will stop, and the next
destroy or reap resumes it.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.linux.cgroups import thaw
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.examination import examine
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import start_time, state
from oar_lxc.root import halted
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.processes import job_processes

LONGEST = 1.0  # seconds to wait until all have stopped
MOMENT = 0.002  # seconds
# States of a process in its status: stopped by a signal or a tracer, or gone; and also in an
# uninterruptible wait.
STOPPED = b"TtZX"
STILL = STOPPED + b"D"


@contextmanager
def standstill(job: Belongings) -> Iterator[None]:
    """Stop the user's processes that are not the job's until the end of the block.

    The user's other jobs are also frozen, as processes that fork quickly would escape the search.
    Processes that were stopped or frozen before stay so.

    Args:
        job: what belongs to the job.
    """
    with halted.noted() as note, job.cgroups.neighbours_frozen(), Handles() as handles:
        stopped: set[int] = set()
        try:
            end = Deadline.after(LONGEST)
            while not end.passed:
                others: set[int] = set()
                job_processes(job, others=others)
                new = {pid for pid in others - stopped if state(pid) not in STOPPED}
                if not new:
                    break
                for pid in new:
                    handles.hold(pid)
                stopped |= new
                for pid, start in _start_times(new):
                    if start is None:  # it blocks in execve(2), and runs nothing meanwhile
                        new.remove(pid)
                    else:
                        note(halted.STOPPED, f"{pid} {start}")
                handles.signal(new, signal.SIGSTOP)
                while not all(state(pid) in STILL for pid in new) and not end.passed:
                    time.sleep(MOMENT)
            yield
        finally:
            handles.signal(stopped, signal.SIGCONT)


def resume_stopped(log: NodeLog) -> None:
    """Resume processes and cgroups that a killed hook has stopped or frozen.

    The hook's notes name them. A process is resumed only if it still is the same process.

    Args:
        log: gets a line with the number of processes and cgroups.
    """
    done = 0
    with halted.of_the_killed() as found, Handles() as handles:
        stopped: set[tuple[int, str | None]] = set()
        for kind, what in found:
            if kind == halted.FROZEN:
                with suppress(OSError):  # resume the others
                    done += thaw(Path(what), depth=1)
            elif match := re.fullmatch(r"([0-9]{1,10}) ([0-9]{1,20})", what):
                handles.hold(int(match[1]))
                stopped.add((int(match[1]), match[2]))
        for same in stopped.intersection(_start_times({pid for pid, _ in stopped})):
            # Also if it is not stopped yet: a frozen process stops only after it is thawed.
            handles.signal([same[0]], signal.SIGCONT)
            done += 1
    if done:
        log.write("let go on", "warning", number=done, why="a destroy was killed")


def _start_times(pids: Collection[int]) -> Iterator[tuple[int, str | None]]:
    return examine(sorted(pids), lambda pid: str(start_time(pid)))
