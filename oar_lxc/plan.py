"""A spec and a job make a plan: which container on which node with which address. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from typing import Any

from oar_lxc.errors import SpecError
from oar_lxc.job import Job
from oar_lxc.network import POOL, JobNetwork
from oar_lxc.spec import Group, Mount, Port, Spec, as_spec


@dataclass(frozen=True)
class PlannedContainer:
    """One container to be.

    Attributes:
        name: its name, also its host name.
        node: the node it is on.
        address: its address with the prefix length.
        image: name of its image.
        group: name of its group.
        cores: reserved cores that it has for itself; 0 where it shares those of the job.
        first_core: number of the first of them, counted over the job's cores on the node.
        memory: most bytes that it may use; 0 where there is no limit.
        processes: most processes and threads that it may have; 0 where there is no limit.
        home: whether it has the user's home.
        mounts: what it has of the node besides.
        ports: ports of the node that lead into it.
        environment: variables of sessions and commands in it.
        ssh_keys: public keys that open it besides the job's.
        provision: text of a script to run in it; empty where there is none.
        provision_timeout: seconds that the script may take.
    """

    name: str
    node: str
    address: str
    image: str
    group: str = ""
    cores: int = 0
    first_core: int = 0
    memory: int = 0
    processes: int = 0
    home: bool = False
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ssh_keys: tuple[str, ...] = ()
    provision: str = ""
    provision_timeout: float = 0.0

    @property
    def ip(self) -> str:
        """The address alone."""
        return self.address.partition("/")[0]

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PlannedContainer:
        """Make a container of JSON's types; see :meth:`Plan.from_data`."""
        rich = {
            "mounts": tuple(Mount(**mount) for mount in data.get("mounts", ())),
            "ports": tuple(Port(**port) for port in data.get("ports", ())),
            "ssh_keys": tuple(data.get("ssh_keys", ())),
        }
        return cls(**{**data, **rich})


@dataclass(frozen=True)
class Plan:
    """All containers of a job.

    Attributes:
        job_id: OAR's job id.
        containers: node by node, in the order of their numbers.
    """

    job_id: int
    containers: tuple[PlannedContainer, ...]

    def on(self, node: str) -> tuple[PlannedContainer, ...]:
        """Return the containers of one node."""
        return tuple(c for c in self.containers if c.node == node)

    def nodefile(self) -> str:
        """Return the text of ``OAR_LXC_NODEFILE``: one line a container and core."""
        return "".join(f"{c.name}\n" * max(c.cores, 1) for c in self.containers)

    def to_data(self) -> dict[str, Any]:
        """Return the plan as JSON's types."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Plan:
        """Make a plan from what :meth:`to_data` returned.

        Raises:
            TypeError, KeyError: it is something else.
        """
        containers = (PlannedContainer.from_data(c) for c in data["containers"])
        return cls(data["job_id"], tuple(containers))


def make_plan(spec: Spec | Group, job: Job, pool: IPv4Network = POOL) -> Plan:
    """Lay a spec's containers out over a job's nodes, node by node.

    Args:
        spec: what the user asks for.
        job: where it goes.
        pool: the network that the cluster gives to jobs.

    Raises:
        SpecError: the job has fewer cores or addresses, or two containers would have one name or
            one port of a node.
    """
    network = JobNetwork.of(job.id, job.nodes, pool)
    containers: list[PlannedContainer] = []
    numbers: Counter[str] = Counter()
    used: Counter[str] = Counter()  # cores, by node
    spec = as_spec(spec)
    for group in spec.groups:
        network.container_address((group.total or 1) - 1)  # before as many are spread
    for node, group in _layout(spec, job):
        numbers[group.name] += 1
        cores = _own_cores(group)
        address = network.container_address(len(containers))
        containers.append(
            PlannedContainer(
                name=f"{group.name}{numbers[group.name]}",
                node=node,
                address=str(address),
                image=group.image,
                group=group.name,
                cores=cores,
                first_core=used[node] if cores else 0,
                memory=int(group.memory or 0),
                processes=group.processes or 0,
                home=group.home,
                mounts=group.mounts,
                ports=group.ports,
                environment=group.environment,
                ssh_keys=group.ssh_keys,
                provision=group.provision or "",
                provision_timeout=group.provision_timeout if group.provision else 0.0,
            )
        )
        used[node] += cores
        if used[node] > job.cores[node]:
            raise SpecError(_too_many_cores(containers, node, job.cores[node]))
    _refuse_doubles(containers)
    return Plan(job.id, tuple(containers))


def _layout(spec: Spec, job: Job) -> Iterator[tuple[str, Group]]:
    """Yield node and group of each container, node by node and there group by group."""
    counts = {group.name: _fixed(group, job) for group in spec.groups if not group.total}
    taken = Counter(
        {
            node: sum(counts[g.name][node] * _own_cores(g) for g in spec.groups if not g.total)
            for node in job.nodes
        }
    )
    for group in spec.groups:
        if group.total:
            counts[group.name] = _spread(group, job, taken)
    for node in job.nodes:
        for group in spec.groups:
            for _ in range(counts[group.name][node]):
                yield node, group


def _fixed(group: Group, job: Job) -> Counter[str]:
    """Return how many of a group's containers each node gets, where the spec says that itself."""
    if group.per_core:
        return Counter(job.cores)
    return Counter(dict.fromkeys(job.nodes, group.per_node or 1))


def _own_cores(group: Group) -> int:
    return 1 if group.per_core else group.cores or 0


def _spread(group: Group, job: Job, taken: Counter[str]) -> Counter[str]:
    """Return how many of a group's containers each node gets: those with most room first.

    Room is what is left of the node's cores for containers that have cores for themselves, and
    cores for each container otherwise.

    Args:
        group: a group with a total.
        job: where it goes.
        taken: cores that are taken already, by node; those of the group are added.
    """
    counts: Counter[str] = Counter()
    for _ in range(group.total or 0):
        if group.cores:
            node = max(job.nodes, key=lambda n: job.cores[n] - taken[n])
            taken[node] += group.cores
        else:
            node = max(job.nodes, key=lambda n: job.cores[n] / (counts[n] + 1))
        counts[node] += 1
    return counts


def _too_many_cores(containers: list[PlannedContainer], node: str, cores: int) -> str:
    last = containers[-1]
    asked = sum(c.cores for c in containers if c.node == node)
    return (
        f"group {last.group}: container {last.name} would be given core number {asked} of {node}, "
        f"and the job has {cores} there: ask for fewer containers or cores, or reserve more"
    )


def _refuse_doubles(containers: list[PlannedContainer]) -> None:
    groups: dict[str, str] = {}
    ports: dict[tuple[str, int], str] = {}
    for planned in containers:
        other = groups.setdefault(planned.name, planned.group)
        if other != planned.group:
            raise SpecError(
                f"groups {other} and {planned.group} both have a container {planned.name}: give "
                "one of them another name"
            )
        for port in planned.ports:
            holder = ports.setdefault((planned.node, port.node), planned.name)
            if holder != planned.name:
                raise SpecError(
                    f"port {port.node} of {planned.node} cannot lead into both {holder} and "
                    f"{planned.name}: a group with ports has one container on each node"
                )
