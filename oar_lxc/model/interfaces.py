"""The interfaces of a plan's containers: their networks, addresses and names. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import JobNetwork, hardware_address
from oar_lxc.model.networks import MOST_NETWORKS, Connected, Network, check_first, check_room

IPV6_PREFIX = 64


@dataclass(frozen=True)
class PlannedNetwork:
    """A network of a job.

    Attributes:
        name: its name.
        number: its number in the job, from 1; nodes name their devices after it.
        subnet: its IPv4 addresses.
        ipv6: its IPv6 addresses; empty if it has none.
    """

    name: str
    number: int
    subnet: str
    ipv6: str = ""


@dataclass(frozen=True)
class Interface:
    """An interface of a container in one of the job's networks.

    Attributes:
        network: the network's name.
        device: its name in the container.
        address: its IPv4 address with the prefix length.
        hardware: its hardware address.
        ipv6: its IPv6 address with the prefix length; empty if it has none.
        number: the network's number in the job; 0 is the main network.
    """

    network: str
    device: str
    address: str
    hardware: str
    ipv6: str = ""
    number: int = 0

    @property
    def index(self) -> int:
        """The number of the interface in its container: 0 for eth0."""
        return int(self.device.removeprefix("eth"))

    @property
    def ip(self) -> str:
        """The IPv4 address without the prefix length."""
        return self.address.partition("/")[0]

    @property
    def ips(self) -> tuple[str, ...]:
        """All its addresses, without prefix lengths."""
        return (self.ip, self.ipv6.partition("/")[0]) if self.ipv6 else (self.ip,)


def plan_networks(
    networks: Collection[Network], job: JobNetwork, known: Collection[PlannedNetwork] = ()
) -> tuple[PlannedNetwork, ...]:
    """Give each network of a spec its number in the job.

    Args:
        networks: those of the spec.
        job: the job's main network.
        known: those of the job's other sessions. A network of the same name is the same network.

    Raises:
        SpecError: a network of another session has other addresses, or the job has too many.
    """
    of = {network.name: network for network in known}
    numbers = {network.number for network in known}
    made = []
    for network in networks:
        if network.name in of:
            made.append(_joined(network, of[network.name]))
            continue
        number = min(set(range(1, MOST_NETWORKS + 1)) - numbers, default=0)
        if not number:
            raise SpecError(
                f"network {network.name}: a job has at most {MOST_NETWORKS} networks, and its "
                f"other sessions have {', '.join(sorted(of))}: join one of them"
            )
        numbers.add(number)
        prefix = unique_prefix(job, number) if network.ipv6 else ""
        made.append(PlannedNetwork(network.name, number, str(network.addresses(number)), prefix))
    return tuple(made)


def _joined(network: Network, there: PlannedNetwork) -> PlannedNetwork:
    """Return the network of another session that a spec joins."""
    same = network.subnet in (None, there.subnet)
    if not same or (network.ipv6 and not there.ipv6):
        has = f"subnet {there.subnet}" if not same else "no IPv6"
        raise SpecError(
            f"network {network.name}: another session of the job has it with {has}: write the "
            "same, or give it another name"
        )
    return there


def unique_prefix(job: JobNetwork, number: int) -> str:
    """Return the IPv6 addresses of a job's network: unique local ones, as RFC 4193 has them."""
    digest = sha256(f"oar-lxc {job.job_id} {job.pool} {' '.join(job.nodes)}".encode()).digest()
    packed = b"\xfd" + digest[:5] + number.to_bytes(2, "big") + bytes(8)
    return f"{IPv6Address(packed)}/{IPV6_PREFIX}"


def connect(
    groups: Sequence[Connected],
    members: Mapping[str, str],
    networks: Collection[PlannedNetwork],
    others: Collection[tuple[str, Interface]] = (),
) -> dict[str, tuple[Interface, ...]]:
    """Give each container an interface with addresses in each network of its group.

    Args:
        groups: the spec's groups.
        members: the group of each container, by its name, in the order of the plan.
        networks: the networks of the spec.
        others: interfaces of containers of other sessions, whose addresses are taken.

    Raises:
        SpecError: a network has too few addresses, or two containers would have the same.
    """
    of_group: dict[str, list[str]] = {group.name: [] for group in groups}
    for container, group_name in members.items():
        of_group[group_name].append(container)
    addresses: dict[tuple[str, str], IPv4Address] = {}  # by container and network
    for network in networks:
        holders = {i.ip: name for name, i in others if i.network == network.name}
        taken = _Taken(network, holders)
        # First those that are asked for, so that the others take none of them.
        for fixed in (True, False):
            for group in groups:
                for membership in group.networks:
                    if membership.network == network.name and bool(membership.first) == fixed:
                        names = of_group[group.name]
                        check_room(network.name, taken.subnet, group, len(names))
                        check_first(network.name, taken.subnet, group, membership)
                        given = taken.give(group, names, membership.first)
                        addresses.update({(name, network.name): ip for name, ip in given})
    return {
        container: _interfaces(container, group, networks, addresses)
        for group in groups
        for container in of_group[group.name]
    }


class _Taken:
    """The addresses of a network, and who has them."""

    def __init__(self, network: PlannedNetwork, holders: Mapping[str, str]) -> None:
        self.subnet = IPv4Network(network.subnet)
        self._name = network.name
        self._holders = dict(holders)
        self._next = int(self.subnet.network_address) + 1

    def give(
        self, group: Connected, names: Sequence[str], first: str
    ) -> Iterator[tuple[str, IPv4Address]]:
        """Yield an address for each container, counted up from ``first`` if it is given."""
        for number, name in enumerate(names):
            address = IPv4Address(first) + number if first else self._lowest(group, len(names))
            if int(address) >= int(self.subnet.broadcast_address):
                raise SpecError(
                    f"network {self._name}: subnet {self.subnet} ends before the address of "
                    f"{name}: group {group.name} counts up from {first}, so let it begin lower"
                )
            holder = self._holders.setdefault(str(address), name)
            if holder != name:
                raise SpecError(f"network {self._name}: {address} is given to {holder} and {name}")
            yield name, address

    def _lowest(self, group: Connected, asked: int) -> IPv4Address:
        while str(IPv4Address(self._next)) in self._holders:
            self._next += 1
        if self._next >= int(self.subnet.broadcast_address):
            room = self.subnet.num_addresses - 2
            raise SpecError(
                f"network {self._name}: subnet {self.subnet} has {room} addresses, and too few of "
                f"them are free for the {asked} containers of group {group.name}"
            )
        return IPv4Address(self._next)


def _interfaces(
    container: str,
    group: Connected,
    networks: Collection[PlannedNetwork],
    addresses: Mapping[tuple[str, str], IPv4Address],
) -> tuple[Interface, ...]:
    of = {network.name: network for network in networks}
    return tuple(
        _interface(of[one.network], number, addresses[container, one.network])
        for number, one in enumerate(group.networks, 1)
    )


def _interface(network: PlannedNetwork, number: int, ip: IPv4Address) -> Interface:
    prefix = IPv4Network(network.subnet).prefixlen
    ipv6 = ""
    if network.ipv6:
        base = IPv6Interface(network.ipv6).ip
        ipv6 = str(IPv6Interface((int(base) + int(ip), IPV6_PREFIX)))
    return Interface(
        network=network.name,
        device=f"eth{number}",
        address=str(IPv4Interface((ip, prefix))),
        hardware=hardware_address(str(ip), network.number),
        ipv6=ipv6,
        number=network.number,
    )
