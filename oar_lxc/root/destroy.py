"""Destroy all that a job has on a node, by facts of the kernel, and check that nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.background import in_background
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.placement import NOT_KNOWN
from oar_lxc.root import bridge, connections, idmapped, job_namespaces, keyrings, packetfilter
from oar_lxc.root.belongings import Belongings
from oar_lxc.root.files import forget, half_written, job_locked
from oar_lxc.root.holders import find_mounting
from oar_lxc.root.id_allocation import find_range, find_whose
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.kill import MOST_SHOWN, Killing
from oar_lxc.root.leftovers import Leftovers, Running, find_leftovers
from oar_lxc.root.litter import PATIENT_SHARE, SHARE, Litter
from oar_lxc.root.oar_files import kept_key, remove_oar_files
from oar_lxc.root.record import Record, read_record, this_boot
from oar_lxc.root.refusal import Refusal
from oar_lxc.root.standstill import resume_stopped
from oar_lxc.root.trash import discard

REAPER = "reaper"  # no job waits for this layer
STANZA = "stanza"  # OAR's own clean runs after this layer
VERIFY = 0.1  # the part of the time that is kept for the check of what is left
LINKS = 0.8  # the part of the time for the removal of links, before the packet filter's
BUSY = "the kernel was busy with network devices of others until the time was over"


@dataclass(frozen=True)
class Destruction:
    """The destroy of a job on a node.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id; -1 if this node does not know the user any more.
        oar_cgroup: OAR's cgroup of the job; if empty, the record tells it.
        layer: the caller: ``stanza``, ``epilogue``, ``prologue``, ``undo`` of a prepare,
            ``reaper`` or ``admin``.
        whole: whether to destroy OAR's own cgroup and files of the job too, as OAR did not.
    """

    layout: JobLayout
    user: str
    uid: int
    oar_cgroup: str = ""
    layer: str = "admin"
    whole: bool = False

    def run(self, log: NodeLog, deadline: Deadline) -> Leftovers:
        """Destroy everything, as far as the deadline allows.

        Each step runs even if an earlier step failed, and may run again: "already gone" is
        success. Only the check at the end counts.

        Args:
            log: the log for the steps.
            deadline: by when this must be over.

        Returns:
            What is left; the record is removed only if nothing is left.

        Raises:
            OarLxcError: another process held the job's lock until the deadline.
        """
        with ExitStack() as held:
            try:
                held.enter_context(job_locked(self.layout.job_id, deadline.timeout()))
            except OSError as error:  # no lock can be taken, so no other process has it either
                log.write("not locked", "error", error=str(error))
            return self.run_locked(log, deadline)

    def run_locked(self, log: NodeLog, deadline: Deadline) -> Leftovers:
        """Do what :meth:`run` does, for a caller that holds the job's lock."""
        start = time.monotonic()
        end = deadline.part(1 - VERIFY)
        layout = self.layout
        record = read_record(layout.record)
        # OAR's own clean has not run: the administrator's destroy does its work, too.
        if record and record.waits and self.layer == "admin" and not self.whole:
            return replace(self, whole=True).run_locked(log, deadline)
        first_id = find_range(layout, self.uid, record)
        oar_cgroup = self.oar_cgroup or (record.oar_cgroup if record else "")
        whose = find_whose(layout, self.uid, first_id)
        cgroups = JobCgroups(layout.job_id, self.user, oar_cgroup, self.whole, end, self.uid)
        job = Belongings(layout, cgroups, whose)
        step = self._step
        killing = Killing(job)
        # OAR's own clean waits for the stanza; if cgroups are left, it does not run at all.
        waits = self.layer == STANZA
        with suppress(OSError):
            resume_stopped(log)
        step(log, "end", lambda: self._note_end(record, first_id, oar_cgroup, waits))
        step(log, "unpublish", lambda: layout.published.unlink(missing_ok=True))
        step(log, "processes", killing.kill)
        # Before the check for processes: the child that removes keyrings has ids of the job.
        step(log, "keyrings", lambda: keyrings.forget(whose, end))
        share = PATIENT_SHARE if self.layer == REAPER else SHARE
        litter = Litter(whose, Deadline.after(end.timeout() * share), end)
        namespaces = job_namespaces.names(layout)
        unfiltered = threading.Event()
        busy: list[str] = []
        # No process of the job runs any more. Removing links is mostly waiting for the kernel.
        with (
            job_namespaces.kept_alive(layout),
            in_background(lambda: self._remove_network(log, end, unfiltered, busy)),
            in_background(lambda: self._remove_tree(log, end, oar_cgroup)),
            in_background(lambda: step(log, "litter", litter.remove)),
        ):
            step(log, "cgroups", killing.remove_cgroups)
            check = job.until(deadline)
            running = Running.of(check)
        if kept := find_mounting(killing.others, namespaces, end):
            # They are cut off from the node. The ids stay the user's.
            log.write("namespaces kept", "warning", by=sorted(kept)[:MOST_SHOWN], how="mounts")
        with log.step("verify"):
            left = find_leftovers(
                check,
                inert=False,
                running=running,
                litter=litter,
                rules=[] if unfiltered.is_set() else None,
                holders=[killing.unknown],
            )
            left = replace(left, busy=busy if left.links else [])
        if not left:
            forget(half_written(layout.record))
            forget(layout.record)
        elif self.layer == STANZA and not left.cgroups:
            step(log, "end", lambda: self._note_end(record, first_id, oar_cgroup, waits=False))
        log.write(
            "destroyed",
            "error" if left.fails else "warning" if left else "info",
            layer=self.layer,
            killed=len(killing.killed),
            left=str(left),
            seconds=round(time.monotonic() - start, 4),
        )
        return left

    def _step(self, log: NodeLog, name: str, act: Callable[[], object]) -> None:
        # The check at the end finds and reports what a failed step leaves.
        with suppress(OSError, OarLxcError), log.step(name):
            act()

    def _note_end(
        self, record: Record | None, first_id: int, oar_cgroup: str, waits: bool
    ) -> None:
        layout = self.layout
        if record is None and not layout.directory.exists():
            return  # most likely nothing exists; if something does, the reaper finds it by name
        now = time.time()
        record = record or Record(
            layout.job_id,
            self.user,
            this_boot(),
            now,
            first_id,
            oar_cgroup,
            placement=NOT_KNOWN,
        )
        if not record.ended or self.layer == STANZA:
            record.end(layout, record.ended or now, waits)

    def _remove_network(
        self, log: NodeLog, end: Deadline, unfiltered: threading.Event, busy: list[str]
    ) -> None:
        layout = self.layout
        has_bridge = (bridge.NET / layout.bridge).exists()
        subnets: list[IPv4Network] = []  # one at most

        def revoke() -> None:
            if has_bridge and self.uid > 0:
                packetfilter.revoke(layout, self.uid, end.timeout())

        def remove() -> None:
            with suppress(OSError, OarLxcError):
                if subnet := connections.subnet_of(layout, end.timeout()):
                    subnets.append(subnet)
            try:
                bridge.remove(layout, end.part(LINKS))
            except Refusal:
                busy.append(BUSY)
                raise

        def forget_connections() -> None:
            for subnet in subnets:
                connections.forget(subnet, end.part(0.3))

        def forget_elements() -> None:
            if packetfilter.forget(layout, end.timeout()):
                unfiltered.set()

        # All of them are mostly waiting for the kernel.
        with in_background(lambda: self._step(log, "revoke", revoke)):
            self._step(log, "links", remove)
        # After the links: a packet of an existing device would add a connection or element again.
        with in_background(lambda: self._step(log, "connections", forget_connections)):
            self._step(log, "filter", forget_elements)

    def _remove_tree(self, log: NodeLog, end: Deadline, oar_cgroup: str) -> None:
        step = self._step
        if key := kept_key(self.layout.job_id, self.user, oar_cgroup):
            step(log, "keys", key.rmdir)
        step(log, "mounts", lambda: idmapped.unmount_under(self.layout.directory))
        step(log, "namespaces", lambda: job_namespaces.remove(self.layout))
        step(log, "files", lambda: self._remove_files(log, end))

    def _remove_files(self, log: NodeLog, end: Deadline) -> None:
        if idmapped.mounts_under(self.layout.directory):
            raise OarLxcError(f"something is still mounted below {self.layout.directory}")
        discard(self.layout, log, end)
        if self.whole:
            remove_oar_files(self.layout.job_id, self.user, end.timeout())
