"""Kill a job's processes until none is left, also if other processes add more or hold them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.holders import find_holders
from oar_lxc.root.processes import is_restless, job_processes
from oar_lxc.root.standstill import standstill
from oar_lxc.root.stuck import abort_waits, dead_lxcfs, parents_of_zombies, tracers

LXCFS_PATIENCE = 4.0  # seconds for an answer of lxcfs, which normally takes milliseconds
LOOKS = 4  # searches that find all of a job; after that, processes outside must be adding more
HOLDERS = 0.5  # the part of the time for the search among the user's other processes
MOST_SHOWN = 5  # processes to name in a sentence
BUSY = 0.1  # seconds after which killed processes have left the cgroups


@dataclass
class Killing:
    """Kills a job's processes and removes its cgroups.

    Args:
        job: what belongs to the job; by its deadline, the killing must be over.

    Attributes:
        killed: the processes that were killed.
        unknown: why a process may still be able to take the job's ids; empty if none can.
    """

    job: Belongings
    killed: set[int] = field(default_factory=set)
    unknown: str = "whether the user's other processes hold its ids: they were not looked at"
    _others: set[int] = field(default_factory=set)
    _unseen: set[int] = field(default_factory=set)
    _thawed: bool = False
    _late: Deadline = NEVER

    @property
    def others(self) -> frozenset[int]:
        """The user's processes that are not the job's, as of the last search."""
        return frozenset(self._others)

    @property
    def _end(self) -> Deadline:
        return self.job.deadline

    def kill(self) -> None:
        """Kill until a search finds none."""
        self._late = self._end.part(0.5).within(LXCFS_PATIENCE)
        self.job.cgroups.take_back()
        looks = 0
        while not self._end.passed:
            if self._look():
                looks += 1
            elif not self._kill_holders():
                self.unknown = keep_waiting(self._unseen)
                break
            if looks > LOOKS:
                self._kill_still()

    def remove_cgroups(self) -> None:
        """Remove the cgroups; if a process enters one meanwhile, kill during a standstill."""
        busy = Deadline.after(BUSY)
        while not self.job.cgroups.remove() and not self._end.passed:
            if busy.passed and self.job.cgroups.processes():
                self._kill_still()
            time.sleep(0.002)

    def _look(self) -> set[int]:
        """Search once, kill all processes found, and return them."""
        self.job.cgroups.kill_unified()
        with Handles() as handles:
            found = self._find(handles)
            if not found and is_restless(self.job):
                with self.job.cgroups.frozen():
                    found = self._find(handles)
                    handles.kill(found)
            self._kill(handles, found)
        return found

    def _kill_holders(self) -> set[int]:
        """Kill the processes that could take the job's ids later, and return them."""
        with Handles() as handles:
            found = self._find_holders(handles)
            self._kill(handles, found)
        return found

    def _find_holders(self, handles: Handles) -> set[int]:
        # A process may have very many open files, so keep time for the other steps.
        end = Deadline.after(self._end.timeout() * HOLDERS)
        return find_holders(self._others, self.job.whose, handles, end, self._unseen)

    def _kill_still(self) -> None:
        """During a standstill, in which no process can add more, kill and remove the cgroups."""
        with Handles() as handles:
            with standstill(self.job):
                self._kill(handles, self._find(handles))
                self.job.cgroups.remove()
                holders = self._find_holders(handles)
                handles.kill(holders)
            self._kill(handles, holders)  # frozen ones die only now

    def _kill(self, handles: Handles, found: set[int]) -> None:
        handles.kill(found)
        self.job.cgroups.rescue(found & self.killed)
        if found or not self._thawed:
            self.job.cgroups.thaw()  # frozen processes die only now
            self._thawed = True
        handles.wait(self._end.within(1.0))
        self.killed |= found

    def _find(self, handles: Handles) -> set[int]:
        self._others.clear()
        self._unseen.clear()
        found = job_processes(self.job, handles, self._others, self._unseen)
        if stuck := found & self.killed:
            for pid in (holding := self._holders(stuck)):
                handles.hold(pid)
            found |= holding
        return found

    def _holders(self, stuck: set[int]) -> set[int]:
        found = tracers(stuck, self.job.whose) | parents_of_zombies(stuck, self.job.whose)
        late = self._late.passed
        if not abort_waits(stuck, self.job.whose, late=late) and late:
            found |= dead_lxcfs(
                stuck, self.job.whose, min(LXCFS_PATIENCE, self._end.timeout() / 2)
            )
        return found


def keep_waiting(unseen: set[int]) -> str:
    """Return the sentence about processes that could not be examined; empty if there are none."""
    if not unseen:
        return ""
    shown = ", ".join(map(str, sorted(unseen)[:MOST_SHOWN]))
    more = ", …" if len(unseen) > MOST_SHOWN else ""
    return f"whether the user's other processes hold its ids: {shown}{more} cannot be looked at"
