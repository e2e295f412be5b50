"""Make a plan of a spec and a job: each container with its node and its address. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import POOL, JobNetwork, hardware_address
from oar_lxc.model.interfaces import Interface, PlannedNetwork, connect, plan_networks
from oar_lxc.model.job import Job
from oar_lxc.model.layout import by_number
from oar_lxc.model.links import Link
from oar_lxc.model.names import MAIN
from oar_lxc.model.shaping import check_pairs
from oar_lxc.model.spec import Group, Mount, Port, Spec, as_spec
from oar_lxc.model.spread import layout, own_cores

# A bridge of Linux has 1,023 ports, and one leads to the node's own bridge.
MOST_ON_NODE = 1022


@dataclass(frozen=True)
class PlannedContainer:
    """One container of a plan.

    Attributes:
        name: its name, also its host name.
        node: name of its node.
        address: its address with the prefix length.
        image: name of its image.
        group: name of its group.
        cores: reserved cores that it has for itself; 0 if it shares the job's cores.
        first_core: number of the first of its cores, counted over the job's cores on the node.
        memory: most bytes that it may use; 0 for no limit.
        processes: most processes and threads that it may have; 0 for no limit.
        home: whether it has the user's home.
        mounts: other files and directories of the node that it has.
        ports: ports of the node that lead into it.
        environment: variables of sessions and commands in it.
        ssh_keys: public keys that open it besides the job's.
        provision: text of a script to run in it; empty for none.
        provision_timeout: seconds that the script may take.
        main: whether it has eth0, in the job's main network. Its ``address`` is its own in any
            case, and tells it from all other containers of the job.
        internet: whether it reaches more than the job by eth0.
        forward: whether it forwards between its interfaces.
        gateway: address of the container by which it leaves its networks; empty for none.
        interfaces: its further interfaces, from eth1 on.
        emulated: whether links may be set up at its interfaces when it starts.
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
    main: bool = True
    internet: bool = True
    forward: bool = False
    gateway: str = ""
    interfaces: tuple[Interface, ...] = ()
    emulated: bool = False

    @property
    def all_interfaces(self) -> tuple[Interface, ...]:
        """All its interfaces, with eth0 if it has that."""
        if not self.main:
            return self.interfaces
        main = Interface(MAIN, "eth0", self.address, hardware_address(self.ip))
        return (main, *self.interfaces)

    def interface(self, network: str) -> Interface | None:
        """Return its interface in a network; None if it has none there."""
        return next((one for one in self.all_interfaces if one.network == network), None)

    @property
    def ip(self) -> str:
        """The address without the prefix length."""
        return self.address.partition("/")[0]

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PlannedContainer:
        """Make a container from JSON's types; see :meth:`Plan.from_data`."""
        rich = {
            "mounts": tuple(Mount(**mount) for mount in data.get("mounts", ())),
            "ports": tuple(Port(**port) for port in data.get("ports", ())),
            "ssh_keys": tuple(data.get("ssh_keys", ())),
            "interfaces": tuple(Interface(**one) for one in data.get("interfaces", ())),
        }
        return cls(**{**data, **rich})


@dataclass(frozen=True)
class Plan:
    """All containers of a job.

    Attributes:
        job_id: OAR's job id.
        containers: node by node, in the order of their numbers.
        networks: their networks, besides the job's main network.
        links: what emulation does between them; see :func:`.shape_of_pair`.
    """

    job_id: int
    containers: tuple[PlannedContainer, ...]
    networks: tuple[PlannedNetwork, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def needs_networks(self) -> bool:
        """Whether it needs more on nodes than the job's main network."""
        offline = any(not container.internet for container in self.containers)
        return bool(self.networks or self.links or offline)

    def on(self, node: str) -> tuple[PlannedContainer, ...]:
        """Return the containers of one node."""
        return tuple(c for c in self.containers if c.node == node)

    def joined(self, other: Plan) -> Plan:
        """Return this plan with the containers, networks and links of another session's."""
        networks = {network.name: network for network in (*self.networks, *other.networks)}
        return Plan(
            self.job_id,
            (*self.containers, *other.containers),
            tuple(networks.values()),
            (*self.links, *other.links),
        )

    def nodefile(self) -> str:
        """Return the text of ``OAR_LXC_NODEFILE``: a line per core of each container."""
        return "".join(f"{c.name}\n" * max(c.cores, 1) for c in self.containers)

    def to_data(self) -> dict[str, Any]:
        """Return the plan as JSON's types."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Plan:
        """Make a plan from what :meth:`to_data` returned.

        Raises:
            TypeError, KeyError: ``data`` does not come from :meth:`to_data`.
        """
        return cls(
            data["job_id"],
            tuple(PlannedContainer.from_data(c) for c in data["containers"]),
            tuple(PlannedNetwork(**network) for network in data.get("networks", ())),
            tuple(Link(**link) for link in data.get("links", ())),
        )


def make_plan(
    spec: Spec | Group,
    job: Job,
    pool: IPv4Network = POOL,
    others: Collection[PlannedContainer] = (),
    first: int = 0,
    networks: Collection[PlannedNetwork] = (),
) -> Plan:
    """Distribute a spec's containers over a job's nodes, node by node.

    Args:
        spec: what the user asks for.
        job: the job with the nodes.
        pool: the network that the cluster gives to jobs.
        others: containers of the job's other sessions, whose addresses, cores, names and ports
            are taken.
        first: number of the first address to give, counted over the job.
        networks: the networks of the job's other sessions.

    Raises:
        SpecError: the job or a network has too few cores or addresses; or two containers would
            have the same name, the same address, or the same port of a node; or a link is between
            containers that share no network.
    """
    network = JobNetwork.of(job.id, job.nodes, pool)
    containers: list[PlannedContainer] = []
    numbers: Counter[str] = Counter()
    used: dict[str, set[int]] = {node: set() for node in job.nodes}  # cores
    for other in others:
        used.setdefault(other.node, set()).update(_cores(other))
    spec = as_spec(spec)
    for group in spec.groups:
        with _asked_by(group):
            network.container_address((group.total or 1) - 1)  # refuse before they are spread
    taken = {other.address for other in others}
    if spec.networks or networks:
        taken |= _underlay(network, others)
    addresses = _addresses(network, taken, first)
    for node, group in layout(spec, job, ((other.node, other.cores) for other in others)):
        numbers[group.name] += 1
        cores = own_cores(group)
        with _asked_by(group):
            address = next(addresses)
        containers.append(
            PlannedContainer(
                name=f"{group.name}{numbers[group.name]}",
                node=node,
                address=address,
                image=group.image,
                group=group.name,
                cores=cores,
                first_core=_first_core(used[node], cores),
                memory=int(group.memory or 0),
                processes=group.processes or 0,
                home=group.home,
                mounts=group.mounts,
                ports=group.ports,
                environment=group.environment,
                ssh_keys=group.ssh_keys,
                provision=group.provision or "",
                provision_timeout=group.provision_timeout if group.provision else 0.0,
                main=group.main,
                internet=spec.main.internet,
                forward=group.forward,
            )
        )
        used[node].update(_cores(containers[-1]))
        if max(used[node], default=-1) >= job.cores[node]:
            why = _too_many_cores(containers, others, node, job.cores[node])
            raise SpecError(f"{_asked(group)}{why}")
    _refuse_too_many(containers, others)
    _refuse_doubles(containers, others)
    return _connected(Plan(job.id, tuple(containers)), spec, network, others, networks)


def _connected(
    plan: Plan,
    spec: Spec,
    main: JobNetwork,
    others: Collection[PlannedContainer],
    known: Collection[PlannedNetwork],
) -> Plan:
    """Return a plan with the spec's networks, interfaces in them, and links between them."""
    networks = plan_networks(spec.networks, main, known)
    for network in networks:
        if IPv4Network(network.subnet).overlaps(main.subnet):
            raise SpecError(
                f"network {network.name}: subnet {network.subnet} overlaps with {main.subnet}, "
                "the job's main network: give it another subnet"
            )
    members = {planned.name: planned.group for planned in plan.containers}
    taken = [(other.name, interface) for other in others for interface in other.interfaces]
    interfaces = connect(spec.groups, members, networks, taken)
    emulated = bool(spec.networks or spec.links)
    containers = [
        replace(c, interfaces=interfaces[c.name], emulated=emulated) for c in plan.containers
    ]
    gateways = _gateways([*others, *containers])
    containers = [c if c.main else replace(c, gateway=_gateway(c, gateways)) for c in containers]
    made = Plan(plan.job_id, tuple(containers), networks, spec.links)
    check_pairs(spec.links, containers)
    return made


def _gateways(containers: Sequence[PlannedContainer]) -> dict[str, str]:
    """Return the address of the first container that forwards, by network."""
    return {
        interface.network: interface.ip
        for container in reversed(containers)
        if container.forward
        for interface in container.interfaces
    }


def _gateway(planned: PlannedContainer, gateways: Mapping[str, str]) -> str:
    """Return the gateway of a container without eth0; empty if it has none or is one itself."""
    networks = [] if planned.forward else [one.network for one in planned.interfaces]
    return next((gateways[name] for name in networks if name in gateways), "")


def _underlay(network: JobNetwork, others: Collection[PlannedContainer]) -> set[str]:
    """Return the addresses that nodes need to carry networks.

    Raises:
        SpecError: a container of another session has one of them.
    """
    needed = {str(network.underlay_address(node)) for node in network.nodes}
    for other in others:
        if other.address in needed:
            raise SpecError(
                f"networks need the last addresses of {network.subnet}, and container "
                f"{other.name} of another session has one of them: end that session first"
            )
    return needed


def _addresses(network: JobNetwork, taken: Collection[str], first: int) -> Iterator[str]:
    """Yield each free address once, starting with number ``first``."""
    for number in range(network.capacity):
        address = str(network.container_address((first + number) % network.capacity))
        if address not in taken:
            yield address
    network.container_address(network.capacity)  # raises the error: no address is left


def _cores(planned: PlannedContainer) -> range:
    """Return the numbers of the cores that a container has for itself."""
    return range(planned.first_core, planned.first_core + planned.cores)


def _first_core(used: Collection[int], count: int) -> int:
    """Return the number of the first core of ``count`` free cores in a row."""
    first = 0
    while not all(core not in used for core in range(first, first + count)):
        first += 1
    return first


def _too_many_cores(
    containers: Sequence[PlannedContainer],
    others: Collection[PlannedContainer],
    node: str,
    cores: int,
) -> str:
    last = containers[-1]
    theirs = sum(c.cores for c in others if c.node == node)
    has = f"the job has {cores} there"
    if theirs:
        has += f", of which other sessions have {theirs}"
    return (
        f"container {last.name} would be given core number "
        f"{last.first_core + last.cores} of {node}, and {has}: ask for "
        "fewer containers or cores, or reserve more"
    )


def _refuse_too_many(
    containers: Sequence[PlannedContainer], others: Collection[PlannedContainer]
) -> None:
    counts = Counter(one.node for one in (*containers, *others))
    for node in {one.node for one in containers}:
        if counts[node] > MOST_ON_NODE:
            raise SpecError(
                f"node {node} would have {counts[node]} containers of the job, and the job's "
                f"bridge there has ports for {MOST_ON_NODE}: ask for fewer containers, or for "
                "more nodes"
            )


def _refuse_doubles(
    containers: Sequence[PlannedContainer], others: Collection[PlannedContainer]
) -> None:
    groups: dict[str, str] = {}
    ports = {(c.node, port.node): c.name for c in others for port in c.ports}
    nodes = {other.name: other.node for other in others}
    of = {planned.name: planned.group for planned in containers}
    for planned in containers:
        if planned.name in nodes:
            raise SpecError(
                f"group {planned.group}: another session of the job has a container "
                f"{planned.name}, on {nodes[planned.name]}: give the group another name, such as "
                f"{planned.group}-b"
            )
        other = groups.setdefault(planned.name, planned.group)
        if other != planned.group:
            raise SpecError(
                f"groups {other} and {planned.group} both have a container {planned.name}: give "
                "one of them another name"
            )
        for port in planned.ports:
            holder = ports.setdefault((planned.node, port.node), planned.name)
            if holder != planned.name:
                raise SpecError(_port_taken(planned, port.node, holder, of.get(holder, "")))


def _port_taken(planned: PlannedContainer, port: int, holder: str, group: str) -> str:
    leads = f"group {planned.group}: ports has {port}, which on {planned.node} leads into {holder}"
    if group == planned.group:
        return (
            f"{leads} and cannot lead into {planned.name} too: a group with ports has one "
            "container on each node"
        )
    whose = f"group {group}" if group else "another session"
    return f"{leads} of {whose} already: choose another port"


@contextmanager
def _asked_by(group: Group) -> Iterator[None]:
    """Say which group asks for too much, and by which keys."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{_asked(group)}{error}") from None


def _asked(group: Group) -> str:
    keys = [key for key in ("per_node", "per_core", "total", "cores") if getattr(group, key)]
    asked = " and ".join(f"{key} is {getattr(group, key)}" for key in keys)
    return f"group {group.name}: {asked}; " if asked else f"group {group.name}: "


def head_of(nodes: Sequence[str]) -> str:
    """Return the head node of a job, which keeps its ledger; the same for every caller.

    It is the first node by its number. OAR mostly starts the job's script there.
    """
    return min(nodes, key=by_number)
