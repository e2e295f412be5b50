"""The networks of a spec: segments of layer 2 that a job has besides its main network."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from oar_lxc.errors import SpecError
from oar_lxc.model.arguments import shown
from oar_lxc.model.checks import AllowedError, check_name_of, check_truth, doc
from oar_lxc.model.hints import refuse_unknown
from oar_lxc.model.names import MAIN

MOST_NETWORKS = 8  # of a job
MOST_INTERFACES = 8  # of a container
LONGEST_NAME = 12  # bytes
WIDEST, NARROWEST = 8, 30  # prefix lengths of a subnet
_NO_SUBNETS = tuple(
    map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))
)


@dataclass(frozen=True)
class Network:
    """A network of the job over all its nodes.

    Networks never meet: what is sent in one is not seen in another, and their subnets may overlap.
    A container that is in two of them may forward between them; see :attr:`.Group.forward`.

    Raises:
        SpecError: a value is not allowed; the sentence names key, value and what is allowed.
    """

    name: str = doc("Its name, as a group's, of at most 12 characters, and not ``main``.", "")
    subnet: str | None = doc(
        "Its addresses, such as ``192.168.100.0/24``; by default ``10.N.0.0/16`` for the network "
        "with number N of the job."
    )
    ipv6: bool = doc(
        "Whether its interfaces have an IPv6 address too, of a subnet that only this network of "
        "the job has (ULA) and that leads nowhere else.",
        False,
    )

    def __new__(cls, *values: object, **keys: object) -> Network:
        """Refuse an unknown key with a hint, before Python refuses it without one."""
        refuse_unknown("Network", keys, [f.name for f in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        checks = (("name", _name), ("subnet", _subnet), ("ipv6", check_truth))
        for key, check in checks:
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, check(value))
            except AllowedError as error:
                raise SpecError(f"{key} is {shown(value)}; {error}") from None

    def addresses(self, number: int) -> IPv4Network:
        """Return its subnet, if it has this number among the job's networks."""
        return IPv4Network(self.subnet or f"10.{number}.0.0/16")


@dataclass(frozen=True)
class Membership:
    """That a group's containers are in a network.

    Args:
        network: the network's name.
        first: the IPv4 address of the group's first container, from which it counts up; empty:
            each gets the lowest address that is free.
    """

    network: str
    first: str = ""

    @classmethod
    def parse(cls, text: object) -> Membership:
        """Make a membership from ``NETWORK[:ADDRESS]``.

        Raises:
            SpecError: the text has another form.
        """
        name, colon, first = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            if first:
                IPv4Address(first)
            if name and bool(colon) == bool(first):
                return cls(name, first)
        except ValueError:
            pass
        raise SpecError(
            f"networks has {shown(text)}, which is not NETWORK[:ADDRESS], such as 'left' or "
            "'left:192.168.100.50'"
        )


@dataclass(frozen=True)
class Main:
    """What the job's main network is to the spec's containers that have it.

    Raises:
        SpecError: a value is not allowed.
    """

    internet: bool = doc(
        "Whether containers reach more than the job's own containers and nodes.", True
    )

    def __new__(cls, *values: object, **keys: object) -> Main:
        """Refuse an unknown key with a hint, before Python refuses it without one."""
        refuse_unknown("Main", keys, [f.name for f in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        try:
            check_truth(self.internet)
        except AllowedError as error:
            raise SpecError(f"internet is {shown(self.internet)}; {error}") from None


class Connected(Protocol):
    """What the checks below read of a group."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def total(self) -> int | None:
        """How many containers it has in all, if it says so."""

    @property
    def networks(self) -> tuple[Membership, ...]:
        """The networks of its containers."""

    @property
    def main(self) -> bool:
        """Whether its containers have eth0."""


def check_networks(networks: Collection[Network]) -> None:
    """Refuse what cannot be of the networks of a spec together.

    Raises:
        SpecError: there are too many, or two have one name.
    """
    if len(networks) > MOST_NETWORKS:
        raise SpecError(
            f"there are {len(networks)} networks; a job has at most {MOST_NETWORKS} besides its "
            "main network"
        )
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"two networks have the name {name!r}: give each its own")


def check_memberships(group: Connected, networks: Collection[Network]) -> None:
    """Refuse what cannot be of the networks of a group.

    Raises:
        SpecError: a network does not exist, has too few addresses for the group, or does not hold
            the group's first address.
    """
    known = {network.name: network for network in networks}
    for membership in group.networks:
        network = known.get(membership.network)
        where = f"group {group.name}"
        if membership.network == MAIN:
            raise SpecError(
                f"{where}: networks has {MAIN!r}, which a container has unless main is false: "
                "leave it out"
            )
        if network is None:
            among = ", ".join(known)
            raise SpecError(
                f"{where}: network {membership.network} is not among {among}"
                if among
                else f"{where}: network {membership.network} is none of the spec, which has none: "
                f"write [[network]] with name = {membership.network!r}"
            )
        if network.subnet:
            check_room(network.name, IPv4Network(network.subnet), group, group.total or 1)
            check_first(network.name, IPv4Network(network.subnet), group, membership)


def check_room(name: str, subnet: IPv4Network, group: Connected, asked: int) -> None:
    """Refuse a group with more containers than a network has addresses.

    Raises:
        SpecError: there are too few.
    """
    room = subnet.num_addresses - 2
    if asked > room:
        raise SpecError(
            f"network {name}: subnet {subnet} has {room} addresses, group {group.name} asks for "
            f"{asked}"
        )


def check_first(name: str, subnet: IPv4Network, group: Connected, membership: Membership) -> None:
    """Refuse a first address that no container of the network can have.

    Raises:
        SpecError: it is outside of the subnet, or one of its two reserved addresses.
    """
    if not membership.first:
        return
    first = IPv4Address(membership.first)
    where = f"group {group.name}: networks has '{name}:{first}', and {first} is"
    if first not in subnet:
        raise SpecError(f"{where} not in the network's subnet {subnet}")
    if first in (subnet.network_address, subnet.broadcast_address):
        what = "broadcast" if first == subnet.broadcast_address else "network"
        raise SpecError(f"{where} the {what} address of {subnet}: choose one between")


def _name(value: object) -> str:
    name = check_name_of(value, LONGEST_NAME)
    if name == MAIN:
        raise AllowedError("the job's main network has this name: choose another")
    if re.fullmatch(r"eth[0-9]*", name):
        raise AllowedError("an interface may have this name: choose another")
    return name


def _subnet(value: object) -> str | None:
    if value is None:
        return None
    wanted = "it is a subnet such as '192.168.100.0/24'"
    if not isinstance(value, str) or "/" not in value:
        raise AllowedError(wanted)
    try:
        subnet = IPv4Network(value, strict=False)
    except ValueError:
        raise AllowedError(wanted) from None
    if str(subnet.network_address) != value.partition("/")[0]:
        raise AllowedError(f"an address of the subnet is written: write '{subnet}'")
    if not WIDEST <= subnet.prefixlen <= NARROWEST:
        raise AllowedError(f"its prefix is from /{WIDEST} to /{NARROWEST}")
    for other in _NO_SUBNETS:
        if subnet.overlaps(other):
            raise AllowedError(f"no interface has an address of {other}")
    return str(subnet)
