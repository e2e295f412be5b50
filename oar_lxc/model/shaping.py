"""What the links of a plan mean for each interface of its containers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import NamedTuple, Protocol

from oar_lxc.errors import SpecError
from oar_lxc.model.addresses import PREFIX
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.links import ANY, FROM, Link, Shape

MOST_PAIRS = 65536  # of a link; each has a class and a filter of its own at the interface
HOST_MASK = (1 << (32 - PREFIX)) - 1  # what tells the containers of a job apart


class Linked(Protocol):
    """What is read here of a planned container."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def group(self) -> str:
        """Its group's name."""

    @property
    def address(self) -> str:
        """Its address in the job's main network."""

    @property
    def all_interfaces(self) -> tuple[Interface, ...]:
        """Its interfaces."""

    def interface(self, network: str) -> Interface | None:
        """Return its interface in a network."""


class End(NamedTuple):
    """The other end of a link, as an interface sees it.

    Attributes:
        number: a number from 1 to 2,047 that no other container of the job has.
        hardware: its hardware address.
    """

    number: int
    hardware: str


@dataclass(frozen=True)
class Shaping:
    """What is done at one interface of a container.

    Attributes:
        container: the container's name.
        address: its address in the job's main network.
        interface: the number of the interface, from 0 for eth0.
        inward: what is done to all that comes, but from ``pairs``; None for nothing.
        outward: what is done to all that goes, but to ``direct``; None for nothing.
        pairs: what is done to what comes from some ends.
        direct: ends to which a link of their own leads.
    """

    container: str
    address: str
    interface: int
    inward: Shape | None = None
    outward: Shape | None = None
    pairs: dict[End, Shape] = field(default_factory=dict)
    direct: tuple[End, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return bool(self.inward or self.outward or self.pairs or self.direct)


def is_named(name: str | None, container: Linked) -> bool:
    """Whether a link's ``from`` or ``to`` names a container."""
    return name in (ANY, container.group, container.name)


def shape_of_pair(
    links: Sequence[Link], network: str, source: Linked, target: Linked
) -> Shape | None:
    """Return what the last link that names a pair does on the way; None if no link names it.

    Args:
        links: all links, in their order.
        network: the network's name.
        source: the container that sends.
        target: the container that receives.
    """
    for link in reversed(links):
        if link.network != network or link.to is None:
            continue
        there = is_named(link.from_, source) and is_named(link.to, target)
        back = link.both and is_named(link.from_, target) and is_named(link.to, source)
        if there or back:
            return link.shape
    return None


def shape_of_interface(
    links: Sequence[Link], network: str, container: Linked, *, inward: bool
) -> Shape | None:
    """Return what the last link for an interface does; None if no link names it."""
    for link in reversed(links):
        if link.network == network and link.to is None and is_named(link.from_, container):
            if inward and not link.both:
                continue
            return link.shape
    return None


def shapings(
    links: Sequence[Link], containers: Collection[Linked], here: Iterable[Linked]
) -> Iterator[Shaping]:
    """Yield what is done at each interface of some containers.

    Args:
        links: all links of the job, in their order.
        containers: all containers of the job.
        here: those whose interfaces are asked for, such as those of a node.
    """
    emulated = {link.network for link in links}
    paired = {link.network for link in links if link.to is not None}
    members = {
        network: [(c, i) for c in containers if (i := c.interface(network))] for network in paired
    }
    for container in here:
        for interface in container.all_interfaces:
            network = interface.network
            if network not in emulated:
                continue
            pairs, direct = {}, []
            for other, theirs in members.get(network, ()):
                if other.name == container.name:
                    continue
                if (shape := shape_of_pair(links, network, other, container)) is not None:
                    pairs[_end(other, theirs)] = shape
                if shape_of_pair(links, network, container, other) is not None:
                    direct.append(_end(other, theirs))
            outward = shape_of_interface(links, network, container, inward=False)
            yield Shaping(
                container=container.name,
                address=container.address,
                interface=interface.index,
                inward=shape_of_interface(links, network, container, inward=True),
                outward=outward,
                pairs=pairs,
                direct=tuple(direct) if outward else (),
            )


def _end(container: Linked, interface: Interface) -> End:
    number = int(IPv4Interface(container.address).ip) & HOST_MASK
    return End(number, interface.hardware)


def shared_network(from_: str, to: str | None, containers: Collection[Linked]) -> str:
    """Return the first network that the ends of a link share, in the order of interfaces.

    Args:
        from_: a group, a container or ``*``.
        to: likewise; None for the interfaces of ``from_`` themselves.
        containers: all containers of the job.

    Raises:
        SpecError: they share none.
    """
    sources = [container for container in containers if is_named(from_, container)]
    targets = [container for container in containers if is_named(to, container)]
    for container in sources:
        for interface in container.all_interfaces:
            network = interface.network
            if to is None or any(
                other.interface(network) for other in targets if other.name != container.name
            ):
                return network
    who = f"{from_} and {to}" if to else from_
    raise SpecError(f"there is no network with {who}: see the names in `oar-lxc net`")


def effective(links: Sequence[Link], containers: Collection[Linked]) -> list[int]:
    """Return for how many pairs or interfaces each link is the last, which counts."""
    counts = [0] * len(links)
    for number, link in enumerate(links):
        later = [one for one in links[number + 1 :] if (one.to is None) == (link.to is None)]
        inside = [c for c in containers if c.interface(link.network)]
        for source in inside:
            if link.to is None:
                if is_named(link.from_, source) and (
                    shape_of_interface(later, link.network, source, inward=False) is None
                ):
                    counts[number] += 1
                continue
            for target in inside:
                if source.name != target.name and is_named(link.from_, source):
                    named = is_named(link.to, target)
                    last = shape_of_pair(later, link.network, source, target) is None
                    counts[number] += named and last
    return counts


def check_pairs(links: Sequence[Link], containers: Collection[Linked]) -> None:
    """Refuse links that name containers that there are not, or that share no network.

    Raises:
        SpecError: there is one; the sentence begins with its number.
    """
    for number, link in enumerate(links, 1):
        check_pair(f"link {number}", link, containers)


def check_pair(where: str, link: Link, containers: Collection[Linked]) -> None:
    """Refuse a link that names a container that there is not, or ends that share no network.

    Args:
        where: what the sentence begins with.
        link: the link.
        containers: all containers that it may be about.

    Raises:
        SpecError: it does.
    """
    ends = []
    for key, name in ((FROM, link.from_), ("to", link.to)):
        if name is None:
            continue
        found = [c for c in containers if is_named(name, c)]
        inside = [c for c in found if c.interface(link.network)]
        if not found:
            raise SpecError(f"{where}: {key} is {name!r}, and there is no such container or group")
        if not inside:
            who = "no container" if name == ANY else name
            isnt = "is" if name == ANY else "is not"
            raise SpecError(f"{where}: network is {link.network}, and {who} {isnt} in it")
        ends.append(inside)
    names = {container.name for end in ends for container in end}
    if len(ends) == 2 and len(names) == 1:
        raise SpecError(f"{where}: from and to are both {names.pop()}: name two containers")
    if len(ends) == 2 and (pairs := len(ends[0]) * len(ends[1])) > MOST_PAIRS:
        raise SpecError(
            f"{where}: from {link.from_} to {link.to} names {pairs} pairs, and at most "
            f"{MOST_PAIRS} are possible: name fewer, or leave out to for a link at each interface"
        )
