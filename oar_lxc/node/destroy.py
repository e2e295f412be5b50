"""Destroy what one job has on one node, by kernel facts, and read back that nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.node import ids, links, mounts
from oar_lxc.node.allocation import find_range
from oar_lxc.node.cgroup import JobCgroups
from oar_lxc.node.files import half_written, job_locked, locked, rest
from oar_lxc.node.leftovers import Leftovers, find_leftovers
from oar_lxc.node.log import NodeLog
from oar_lxc.node.oarfiles import remove_oar_files
from oar_lxc.node.processes import is_restless, job_processes, kill
from oar_lxc.node.record import Record, read_record, this_boot
from oar_lxc.node.stuck import dead_lxcfs, fuse_servers, tracers
from oar_lxc.node.trash import discard

LXCFS_PATIENCE = 4.0  # seconds that lxcfs has for an answer, which takes it milliseconds
VERIFY = 0.1  # the part of the time that is kept for reading back what is left


@dataclass(frozen=True)
class Destruction:
    """What is to be destroyed.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id, -1 where the user is not known on this node any more.
        oar_cgroup: OAR's cgroup of the job where the caller knows it, else the record tells.
        layer: who asks for it: ``stanza``, ``epilogue``, ``prologue``, ``undo`` of a
            prepare, ``reaper`` or ``admin``.
        whole: destroy OAR's own cgroup and files of the job too, as OAR did not.
    """

    layout: JobLayout
    user: str
    uid: int
    oar_cgroup: str = ""
    layer: str = "admin"
    whole: bool = False

    def run(self, log: NodeLog, deadline: float) -> Leftovers:
        """Destroy everything, as far as the deadline allows.

        Every step runs even where one before it failed, and may run again: "already gone" is
        success. What counts is what is found at the end.

        Args:
            log: where the steps are logged.
            deadline: monotonic time by which this must be over.

        Returns:
            What is left; the record is removed only where that is nothing.

        Raises:
            OarLxcError: another process had the job locked until the deadline.
        """
        with job_locked(self.layout.job_id, rest(deadline)):
            return self.run_locked(log, deadline)

    def run_locked(self, log: NodeLog, deadline: float) -> Leftovers:
        """Do what :meth:`run` does for a caller that has the job locked."""
        start = time.monotonic()
        end = deadline - (deadline - start) * VERIFY
        layout = self.layout
        record = read_record(layout.record)
        first_id = find_range(layout, self.user, self.uid, record)
        oar_cgroup = self.oar_cgroup or (record.oar_cgroup if record else "")
        cgroups = JobCgroups(layout.job_id, self.user, oar_cgroup, self.whole, end)
        killed = 0

        def kill_all() -> None:
            nonlocal killed
            killed += self._kill(cgroups, first_id, end)

        step = self._step
        step(log, "end", lambda: self._note_end(record, first_id, oar_cgroup))
        step(log, "unpublish", lambda: layout.published.unlink(missing_ok=True))
        # A lock that somebody keeps must not keep the processes alive, that somebody perhaps.
        step(log, "processes", kill_all)
        step(log, "ids", lambda: self._revoke(first_id, rest(end) / 2))
        step(log, "stragglers", kill_all)  # nobody can take the job's ids any more
        step(log, "cgroups", lambda: self._remove_cgroups(cgroups, end))
        step(log, "links", lambda: links.remove(layout, rest(end)))
        step(log, "mounts", lambda: mounts.unmount_under(layout.directory))
        step(log, "files", lambda: self._remove_files(log, end))
        with log.step("verify"):
            within = replace(cgroups, deadline=deadline)
            left = find_leftovers(layout, within, self.uid, first_id, inert=False)
        if not left:
            half_written(layout.record).unlink(missing_ok=True)
            layout.record.unlink(missing_ok=True)
        log.write(
            "destroyed",
            "error" if left else "info",
            layer=self.layer,
            killed=killed,
            left=str(left),
            seconds=round(time.monotonic() - start, 4),
        )
        return left

    def _step(self, log: NodeLog, name: str, act: Callable[[], object]) -> None:
        # What a failed step leaves is found, and said, when all is read back.
        with suppress(OSError, OarLxcError), log.step(name):
            act()

    def _note_end(self, record: Record | None, first_id: int, oar_cgroup: str) -> None:
        layout = self.layout
        if record is None and not layout.directory.exists():
            return  # most likely there is nothing; if there is, the reaper finds it by its names
        if record is None or not record.ended:
            now = time.time()
            record = record or Record(
                layout.job_id, self.user, this_boot(), now, first_id, oar_cgroup
            )
            record.end(layout, now)

    def _revoke(self, first_id: int, timeout: float) -> None:
        with locked(timeout):
            ids.revoke(self.layout, first_id)

    def _kill(self, cgroups: JobCgroups, first_id: int, end: float) -> int:
        killed: set[int] = set()
        late = time.monotonic() + min(LXCFS_PATIENCE, (end - time.monotonic()) / 2)

        def find() -> set[int]:
            found = job_processes(cgroups, self.uid, first_id)
            stuck = found & killed
            holders = (tracers, fuse_servers)
            found = found.union(*(find(stuck, self.uid, first_id) for find in holders))
            return found | dead_lxcfs(stuck) if time.monotonic() > late else found

        cgroups.forbid_forks()
        while time.monotonic() < end:
            cgroups.kill_unified()
            cgroups.thaw()
            found = kill(find, min(1.0, end - time.monotonic()))
            if not found and is_restless(cgroups, self.uid):
                with cgroups.frozen():
                    found = kill(find, 0)
            if not found:
                break
            killed |= found
        return len(killed)

    def _remove_cgroups(self, cgroups: JobCgroups, end: float) -> None:
        # A cgroup stays busy for a moment after its last process died.
        while not cgroups.remove() and time.monotonic() < end:
            time.sleep(0.002)

    def _remove_files(self, log: NodeLog, end: float) -> None:
        if mounts.mounts_under(self.layout.directory):
            raise OarLxcError(f"something is still mounted below {self.layout.directory}")
        discard(self.layout, log, end)
        if self.whole:
            remove_oar_files(self.layout.job_id, self.user)
