"""A spec and a job make a plan: which container on which node with which address. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from typing import Any

from oar_lxc.job import Job
from oar_lxc.network import POOL, JobNetwork
from oar_lxc.spec import Spec


@dataclass(frozen=True)
class PlannedContainer:
    """One container to be.

    Attributes:
        name: its name, also its host name.
        node: the node it is on.
        address: its address with the prefix length.
        image: name of its image.
    """

    name: str
    node: str
    address: str
    image: str

    @property
    def ip(self) -> str:
        """The address alone."""
        return self.address.partition("/")[0]


@dataclass(frozen=True)
class Plan:
    """All containers of a job.

    Attributes:
        job_id: OAR's job id.
        containers: in the order of their numbers.
    """

    job_id: int
    containers: tuple[PlannedContainer, ...]

    def on(self, node: str) -> tuple[PlannedContainer, ...]:
        """Return the containers of one node."""
        return tuple(c for c in self.containers if c.node == node)

    def to_data(self) -> dict[str, Any]:
        """Return the plan as JSON's types."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Plan:
        """Make a plan from what :meth:`to_data` returned.

        Raises:
            TypeError, KeyError: it is something else.
        """
        return cls(data["job_id"], tuple(PlannedContainer(**c) for c in data["containers"]))


def make_plan(spec: Spec, job: Job, pool: IPv4Network = POOL) -> Plan:
    """Lay a spec's containers out over a job's nodes, node by node.

    Args:
        spec: what the user asks for.
        job: where it goes.
        pool: the network that the cluster gives to jobs.

    Raises:
        SpecError: the job's network has fewer addresses.
    """
    network = JobNetwork.of(job.id, job.nodes, pool)
    containers: list[PlannedContainer] = []
    for node, cores in job.cores.items():
        for _ in range(cores if spec.per_core else spec.per_node):
            index = len(containers)
            address = str(network.container_address(index))
            name = f"{spec.name}{index + 1}"
            containers.append(PlannedContainer(name, node, address, spec.image))
    return Plan(job.id, tuple(containers))
