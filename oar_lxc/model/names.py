"""The names by which containers of a job know each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MAIN = "main"  # the name of the job's main network, to which eth0 leads
MARK = "# oar-lxc"  # ends each line of ours in files that others also write to


class Peer(NamedTuple):
    """A container, as others of its job know it.

    Attributes:
        ip: its address in the job's main network; empty if it has no interface there.
        key: the public host key of its ssh server.
        networks: its addresses in each further network.
    """

    ip: str
    key: str
    networks: Mapping[str, Sequence[str]] = {}  # nobody writes to it

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Peer:
        """Make it from the list that JSON makes of it; an older version writes no networks.

        Raises:
            ValueError, TypeError: it is something else.
        """
        ip, key, *rest = data
        networks = {
            str(name): tuple(map(str, ips)) for name, ips in (rest[0] if rest else {}).items()
        }
        return cls(str(ip), str(key), networks)


class Known(NamedTuple):
    """A container, as those of some networks know it.

    Attributes:
        names: the names that lead to it: its own, and those with a network's name.
        lines: for each address that one can use, the names that lead there.
        key: the public host key of its ssh server.
    """

    names: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    key: str


def known_peers(peers: Mapping[str, Peer], networks: Sequence[str]) -> Iterator[Known]:
    """Yield all containers of a job, as a container knows them that is in some networks.

    ``p1`` leads to p1 by the first network that both are in, and ``p1.left`` by its network left.

    Args:
        peers: the containers of the job, by their names.
        networks: the networks of the container that asks, in the order of its interfaces.
    """
    for name, peer in peers.items():
        addresses: dict[str, Sequence[str]] = {MAIN: (peer.ip,)} if peer.ip else {}
        addresses.update(peer.networks)
        first = next((network for network in networks if network in addresses), "")
        lines = []
        # The shared one comes first: what resolves an address to a name takes the first line.
        for network in sorted(addresses, key=lambda network: network != first):
            here = (name,) if network == first else ()
            names = (*here, f"{name}.{network}") if peer.networks else here
            if names:
                lines += [(ip, names) for ip in addresses[network]]
        if lines:
            all_names = dict.fromkeys(name for _, names in lines for name in names)
            yield Known(tuple(all_names), tuple(lines), peer.key)


def hosts_text(peers: Mapping[str, Peer], networks: Sequence[str]) -> str:
    """Return our lines of ``/etc/hosts`` for containers of some networks.

    Args:
        peers: the containers of the job, by their names.
        networks: the networks of the containers that get the lines.
    """
    return "".join(
        f"{ip} {' '.join(names)} {MARK}\n"
        for known in known_peers(peers, networks)
        for ip, names in known.lines
    )
