"""The file by which root tells the job's user about a prepared node.

It is ``job.json`` in the job's directory, owned by root. It is all that root tells the user,
and the user tells root nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from oar_lxc.errors import NodeNotPreparedError
from oar_lxc.model.addresses import POOL
from oar_lxc.model.idmap import IdMap
from oar_lxc.model.placement import NONE, SYSTEMD, V1

READY = "ready"
REFUSED = "refused"


@dataclass(frozen=True)
class PublishedJob:
    """One node, prepared for one job.

    Attributes:
        job_id: OAR's job id.
        user: the job's user.
        node: this node's name, as OAR writes it in the nodefile.
        nodes: names of all nodes of the job.
        state: :data:`READY` or :data:`REFUSED`.
        reason: why root refused, one sentence; empty if ready.
        first_id: host id of the containers' id 0.
        id_count: length of the id range.
        uid: the user's id, which containers map to itself; 0 if they do not.
        gid: the id of the user's group, likewise.
        cgroups: the delegated cgroup directory of each hierarchy.
        bridge: the job's bridge on this node.
        gateway: the bridge's address with its prefix length.
        pool: the network that this cluster gives to jobs.
        placement: how OAR has placed the job; see :mod:`oar_lxc.model.placement`. Older versions
            knew one way.
        unit: systemd's service that has the cgroup, which only systemd lets the user enter; empty
            if the cgroups are of version 1.
        in_cpuset: whether OAR confines the job to its own CPUs.
        namespaces: whether root made namespaces for the job; version 0.1 did not.
        trees: the administrator's trees, such as /home; each with the path of its mount for the
            job.
        prepared: seconds that each step of the prepare took; ``all`` is the whole time, and
            ``begin`` the start in seconds since the epoch.
    """

    job_id: int
    user: str
    node: str
    nodes: tuple[str, ...]
    state: str
    reason: str = ""
    first_id: int = 0
    id_count: int = 0
    uid: int = 0
    gid: int = 0
    cgroups: tuple[str, ...] = ()
    bridge: str = ""
    gateway: str = ""
    pool: str = str(POOL)
    placement: str = V1
    unit: str = ""
    in_cpuset: bool = True
    namespaces: bool = False
    trees: Mapping[str, str] = field(default_factory=dict)
    prepared: Mapping[str, float] = field(default_factory=dict)

    @property
    def ids(self) -> IdMap:
        """The map of ids inside the job's containers to ids outside."""
        return IdMap.of_job(self.first_id, self.id_count, self.uid, self.gid)

    @property
    def unified(self) -> str:
        """The delegated cgroup, if it is of version 2; empty if they are of version 1."""
        return self.cgroups[0] if self.unit else ""

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PublishedJob:
        """Read a file's text.

        Raises:
            ValueError: it is not what :meth:`to_json` writes.
        """
        try:
            data = json.loads(text)
            for key in ("nodes", "cgroups"):
                data[key] = tuple(data[key])
            return cls(**data)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a published job: {error}") from error


def read_published(path: Path, job_id: int, node: str) -> PublishedJob:
    """Read what root publishes about a node.

    Raises:
        NodeNotPreparedError: there is no readable file, or root refused the job, or an older
            version prepared the node, or a newer one in a way that is not known here.
    """
    try:
        published = PublishedJob.from_json(path.read_text())
    except FileNotFoundError:
        raise NodeNotPreparedError(
            f"node {node} is not prepared for job {job_id}: submit the job with `-t lxc`; if it "
            f"was, ask the administrator whether the hooks of oar-lxc are installed on {node}"
        ) from None
    except (OSError, ValueError) as error:
        raise NodeNotPreparedError(f"node {node}: cannot read {path}: {error}") from error
    if published.state != READY:
        raise NodeNotPreparedError(f"node {node} refused job {job_id}: {published.reason}")
    if not published.namespaces:
        raise NodeNotPreparedError(
            f"node {node} was prepared for job {job_id} by an older version of oar-lxc, which was "
            "upgraded since: submit the job again"
        )
    if published.placement not in (V1, SYSTEMD, NONE):
        raise NodeNotPreparedError(
            f"node {node} was prepared for job {job_id} by another version of oar-lxc, which "
            f"found it placed as {published.placement!r}: submit the job again"
        )
    return published
