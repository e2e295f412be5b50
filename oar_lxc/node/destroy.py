"""Destroy what one job has on one node, by kernel facts, and read back that nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.node import ids, links, mounts
from oar_lxc.node.cgroup import JobCgroups
from oar_lxc.node.files import half_written, locked, remove_tree
from oar_lxc.node.leftovers import Leftovers, find_leftovers
from oar_lxc.node.log import NodeLog
from oar_lxc.node.processes import job_processes, kill
from oar_lxc.node.record import read_record


@dataclass(frozen=True)
class Destruction:
    """What is to be destroyed.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id, -1 where the user is not known on this node any more.
        oar_cgroup: OAR's cgroup of the job where the caller knows it, else the record tells.
    """

    layout: JobLayout
    user: str
    uid: int
    oar_cgroup: str = ""

    def run(self, log: NodeLog, deadline: float) -> Leftovers:
        """Destroy everything, as far as the deadline allows.

        Every step runs even where one before it failed, and may run again: "already gone" is
        success. What counts is what is found at the end.

        Args:
            log: where the steps are logged.
            deadline: monotonic time by which this must be over.

        Returns:
            What is left; the record is removed only where that is nothing.
        """
        record = read_record(self.layout.record)
        first_id = (record.first_id if record else 0) or ids.range_of_directory(self.layout)
        oar_cgroup = self.oar_cgroup or (record.oar_cgroup if record else "")
        cgroups = JobCgroups(self.layout.job_id, self.user, oar_cgroup)

        def rest() -> float:
            return max(0.1, deadline - time.monotonic())

        self._step(log, "unpublish", lambda: self.layout.published.unlink(missing_ok=True))
        self._step(log, "ids", lambda: self._revoke(first_id, rest()))
        self._step(log, "processes", lambda: self._kill(cgroups, first_id, deadline))
        self._step(log, "cgroups", lambda: self._remove_cgroups(cgroups, deadline))
        self._step(log, "links", lambda: links.remove(self.layout))
        self._step(log, "mounts", lambda: mounts.unmount_under(self.layout.directory))
        self._step(log, "files", lambda: self._remove_files(rest()))
        with log.step("verify"):
            left = find_leftovers(self.layout, cgroups, self.uid, first_id, with_record=False)
        if left:
            log.write("left", "error", left=str(left))
        else:
            half_written(self.layout.record).unlink(missing_ok=True)
            self.layout.record.unlink(missing_ok=True)
        return left

    def _step(self, log: NodeLog, name: str, act: Callable[[], object]) -> None:
        # What a failed step leaves is found, and said, when all is read back.
        with suppress(OSError, OarLxcError), log.step(name):
            act()

    def _revoke(self, first_id: int, timeout: float) -> None:
        with locked(timeout):
            ids.revoke(self.layout, first_id)

    def _kill(self, cgroups: JobCgroups, first_id: int, deadline: float) -> None:
        cgroups.forbid_forks()
        while time.monotonic() < deadline:
            cgroups.kill_unified()
            cgroups.thaw()
            wait = min(1.0, deadline - time.monotonic())
            if not kill(lambda: job_processes(cgroups, self.uid, first_id), wait):
                break

    def _remove_cgroups(self, cgroups: JobCgroups, deadline: float) -> None:
        # A cgroup stays busy for a moment after its last process died.
        while not cgroups.remove() and time.monotonic() < deadline:
            time.sleep(0.002)

    def _remove_files(self, timeout: float) -> None:
        if mounts.mounts_under(self.layout.directory):
            raise OarLxcError(f"something is still mounted below {self.layout.directory}")
        remove_tree(self.layout.directory, timeout)
