"""Prepare one node for one job: do all that needs root, before the user's script starts."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.linux.regular import read_regular
from oar_lxc.linux.shortage import FULL, shortage_of
from oar_lxc.linux.store_access import why_open
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.config import Config
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.placement import NOT_KNOWN, SYSTEMD
from oar_lxc.model.published import READY, REFUSED, PublishedJob
from oar_lxc.root import bridge, id_ranges, idmapped, job_namespaces, packetfilter
from oar_lxc.root.account import UNKNOWN, Account, find_account, find_uid
from oar_lxc.root.destroy import Destruction
from oar_lxc.root.files import half_written, job_locked, locked, write_durably
from oar_lxc.root.id_allocation import NoRangeError, allocate
from oar_lxc.root.job_cgroups import JobCgroups
from oar_lxc.root.oar_files import keep_key, keep_keys
from oar_lxc.root.placement import detect, hierarchies, is_in_units
from oar_lxc.root.record import Record, read_record, this_boot
from oar_lxc.root.refusal import Refusal
from oar_lxc.root.trees import mount_trees

UNDO = 0.3  # the part of the time that is kept for an undo


@dataclass(frozen=True)
class Preparation:
    """The prepare of a node for a job.

    Args:
        layout: the job's names.
        user: the job's user.
        node: this node's name.
        nodes: names of all nodes of the job.
        config: the administrator's settings.
        oar_cgroup: OAR's cgroup of the job; empty if the cpuset is off.
        job_key: OAR's private key of the job (oarsub -k); None if it has none.
        account: the user's account; looked up if None.
    """

    layout: JobLayout
    user: str
    node: str
    nodes: Sequence[str]
    config: Config
    oar_cgroup: str = ""
    job_key: Path | None = None
    account: Account | None = None

    def run(self, log: NodeLog, deadline: Deadline) -> PublishedJob:
        """Prepare the node, or undo all of it and raise.

        A refusal is published for the job, and is no failure of the node.

        Args:
            log: the log for the steps.
            deadline: by when all must be over, including an undo.

        Raises:
            UsageError: there is no such user.
            OarLxcError, OSError: the node is not as it should be.
        """
        network = JobNetwork.of(self.layout.job_id, self.nodes, self.config.pool)
        with job_locked(self.layout.job_id, deadline.timeout()):
            try:
                account = self.account or find_account(self.user)
            except OSError as error:
                if not (why := shortage_of(error)):
                    raise
                return self._refuse(UNKNOWN, self._sentence(error, why), log, deadline)
            if account is None:
                raise UsageError(f"user {self.user} does not exist on this node")
            return self._run(account, network, log, deadline)

    def _run(
        self, account: Account, network: JobNetwork, log: NodeLog, deadline: Deadline
    ) -> PublishedJob:
        begin, start = time.time(), time.monotonic()
        # A part of the time is kept for the undo.
        end = deadline.part(1 - UNDO)
        try:
            with log.step("record"):
                record = self._record(account, network, end)
            published = self._make(record, account, network, log, end)
            took = {"begin": round(begin, 4), "all": round(time.monotonic() - start, 4)}
            published = replace(published, prepared={**log.seconds, **took})
            # Atomically, but not durably: after another boot, it counts no more.
            path = self.layout.published
            write_atomic(path, published.to_json(), 0o644, scratch=half_written(path))
            return published
        except Refusal as refusal:
            return self._refuse(account.uid, str(refusal), log, deadline)
        except BaseException as error:
            # A shortage that users can cause must not take the node out of service.
            if why := shortage_of(error):
                return self._refuse(account.uid, self._sentence(error, why), log, deadline)
            self._undo(account.uid, log, deadline)
            raise

    def _sentence(self, error: BaseException, why: str) -> str:
        """Return the sentence that tells a job of a shortage."""
        if isinstance(error, OSError) and error.errno in FULL:
            return f"the disk of {self.layout.state} is full ({error.strerror})"
        return (
            f"node {self.node} has no more of what its users share, such as memory or processes: "
            f"{why}; submit the job again later"
        )

    def _refuse(self, uid: int, reason: str, log: NodeLog, deadline: Deadline) -> PublishedJob:
        with suppress(OSError, OarLxcError):  # the destroy at the job's end does it
            self._undo(uid, log, deadline)
        log.write("refused", "warning", reason=reason)
        refused = PublishedJob(
            self.layout.job_id,
            self.user,
            self.node,
            tuple(sorted(set(self.nodes))),
            REFUSED,
            reason,
        )
        with suppress(OSError):  # on a full disk, the job only sees that nothing is prepared
            self._publish_refusal(refused)
        return refused

    def _record(self, account: Account, network: JobNetwork, end: Deadline) -> Record:
        """Choose the id range, and write the record before anything is made."""
        with locked(end.timeout()):
            before = read_record(self.layout.record)
            if before and before.ended:
                raise Refusal("it has ended already")
            if before and before.boot == this_boot() and before.first_id:
                return before
            self.layout.published.unlink(missing_ok=True)  # it is from a refusal or another boot
            try:
                first_id = allocate(self.layout, self.user, account.uid, self.config.users)
            except NoRangeError as error:
                raise Refusal(str(error)) from error
            placement = detect(self.layout.job_id, self.oar_cgroup, hierarchies())
            record = self._new_record(first_id, placement)
            record.write(self.layout)
        holder = bridge.holder_of_subnet(network, end.timeout())
        if holder and holder != self.layout.bridge:
            raise Refusal(
                f"its network {network.subnet} is still held by {holder}; submit the job again, "
                "its next id has another network"
            )
        return record

    def _new_record(self, first_id: int = 0, placement: str = NOT_KNOWN) -> Record:
        return Record(
            job_id=self.layout.job_id,
            user=self.user,
            boot=this_boot(),
            created=time.time(),
            first_id=first_id,
            oar_cgroup=self.oar_cgroup,
            placement=placement,
        )

    def _make(
        self,
        record: Record,
        account: Account,
        network: JobNetwork,
        log: NodeLog,
        end: Deadline,
    ) -> PublishedJob:
        layout = self.layout
        cgroups = JobCgroups(
            layout.job_id, self.user, self.oar_cgroup, deadline=end, uid=account.uid
        )
        first_id = record.first_id
        with log.step("directories"):
            self._make_directories(account, first_id)
        if self.job_key and not self.oar_cgroup:
            with suppress(OSError), log.step("keys"):
                keep_keys()
        elif self.job_key and record.placement == SYSTEMD:
            with suppress(OSError), log.step("keys"):
                keep_key(self.oar_cgroup)
        id_map = IdMap.of_job(first_id, id_ranges.COUNT, account.uid, account.gid)
        with log.step("namespaces"):
            if is_new := not job_namespaces.are_kept(layout):
                job_namespaces.make(layout, account, id_map, end)
        with log.step("images"):
            if why := why_open(self.config.store):
                raise Refusal(why)
            if not idmapped.mounts_under(layout.images):
                self._mount_images()
        with log.step("trees"):
            trees = mount_trees(layout, self.config.trees, account, log, end)
        with log.step("cgroups"):
            delegated = cgroups.delegate(record.placement, account.uid, first_id)
        with log.step("links"):
            if is_new or not layout.published.exists():
                # Publishing comes last, so links without it are half made or of another job.
                bridge.remove(layout, end)
                peers = bridge.create(layout, network, self.node, end.timeout())
                packetfilter.admit(layout, account.uid, peers, self.config.pool, end.timeout())
        if end.passed:
            raise OarLxcError("it took too long: the node is slow, or its lock was held")
        return PublishedJob(
            job_id=layout.job_id,
            user=self.user,
            node=self.node,
            nodes=network.nodes,
            state=READY,
            first_id=first_id,
            id_count=id_ranges.COUNT,
            uid=account.uid,
            gid=account.gid,
            cgroups=tuple(map(str, delegated)),
            bridge=layout.bridge,
            gateway=str(network.node_address(self.node)),
            pool=str(network.pool),
            placement=record.placement,
            unit=cgroups.service if is_in_units(record.placement, hierarchies()) else "",
            in_cpuset=bool(self.oar_cgroup),
            namespaces=True,
            trees=trees,
        )

    def _mount_images(self) -> None:
        layout, store = self.layout, self.config.store
        try:
            idmapped.mount_idmapped(store, layout.images, layout.user_namespace)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The file system cannot shift ids, as NFS. Images there are archives, which the job's
            # user unpacks.
            idmapped.mount_idmapped(store, layout.images, None)

    def _make_directories(self, account: Account, first_id: int) -> None:
        layout = self.layout
        _make_directory(layout.directory, 0o711)
        if not idmapped.mounts_under(layout.directory):
            # Mounts below disappear with this one, wherever users move them.
            idmapped.mount_on_itself(layout.directory)
        # The group of the root-owned directory tells the id range even if the record is lost.
        os.chown(layout.directory, 0, first_id, follow_symlinks=False)
        _make_directory(layout.images, 0o755)
        _make_directory(layout.trees, 0o711)
        _make_directory(layout.namespaces, 0o711)
        for path in (layout.user_namespace, layout.network_namespace):
            if not path.exists():
                path.touch(0o444)
        if _make_directory(layout.private, 0o700) and self.job_key:
            # Before the user owns the directory: root does not write where a user can.
            write_durably(layout.job_key, _read_key(self.job_key))
            os.chown(layout.job_key, account.uid, account.gid, follow_symlinks=False)
        # Containers' root may enter by the group; new directories inherit it.
        _make_directory(layout.containers, 0o700)
        for path, group, mode in (
            (layout.containers, first_id, 0o2770),
            (layout.private, account.gid, 0o700),
        ):
            os.chown(path, account.uid, group, follow_symlinks=False)
            os.chmod(path, mode)

    def _publish_refusal(self, refused: PublishedJob) -> None:
        # If the undo left something, its record stays, as it tells the id range.
        record = read_record(self.layout.record) or self._new_record()
        record.write(self.layout)
        _make_directory(self.layout.directory, 0o711)
        os.chown(self.layout.directory, 0, record.first_id, follow_symlinks=False)
        write_durably(self.layout.published, refused.to_json(), 0o644)

    def _undo(self, uid: int, log: NodeLog, deadline: Deadline) -> None:
        destruction = Destruction(self.layout, self.user, uid, self.oar_cgroup, "undo")
        destruction.run_locked(log, deadline)


def _read_key(path: Path) -> str:
    """Return OAR's key of a job; oar or root must own the file, as the user gets a copy."""
    owners = {os.geteuid()}
    with suppress(OarLxcError):
        owners.add(find_uid("oar"))
    try:
        return os.fsdecode(read_regular(path, owners=owners, most=1 << 16))
    except OSError as error:
        raise OarLxcError(f"OAR's key of the job, {path}: {error.strerror}") from error


def _make_directory(path: Path, mode: int) -> bool:
    """Make a directory; return whether it is new.

    Raises:
        OarLxcError: the name exists and is not a directory; a link to one is not.
    """
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise OarLxcError(f"{path} is no directory: remove it") from None
        return False
    return True
