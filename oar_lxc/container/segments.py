"""The networks of a job on one node: a bridge and a VXLAN for each, in the job's own namespace.

The text is made by pure functions, for ``ip -batch`` and ``bridge -batch``. :func:`make_segments`
has both run in that namespace.

The VXLANs do not learn. Where a hardware address is follows from the plan, and entries that never
expire say so. What is sent to another address, as of a container inside a container, is flooded
to all nodes: so it arrives, too, and no sender can fill the table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from oar_lxc.container.runtime import Runtime
from oar_lxc.model.addresses import PREFIX, SEGMENT_MTU, SEGMENT_PORT
from oar_lxc.model.interfaces import PlannedNetwork
from oar_lxc.model.layout import BRIDGE_INSIDE, bridge_of, segment_vxlan
from oar_lxc.model.plan import PlannedContainer

ALL = "00:00:00:00:00:00"  # a VXLAN's entry for broadcasts and unknown addresses


@dataclass(frozen=True)
class Underlay:
    """The job's main network, which carries its other networks from node to node.

    Attributes:
        node: this node's name.
        addresses: the IPv4 address of each node in the job's own namespace there.
        prefix: the length of the main network's prefix.
        bridge: the device that gets this node's address.
    """

    node: str
    addresses: Mapping[str, str]
    prefix: int = PREFIX
    bridge: str = BRIDGE_INSIDE

    @property
    def interface(self) -> str:
        """This node's address with the prefix length."""
        return f"{self.addresses[self.node]}/{self.prefix}"

    @property
    def peers(self) -> tuple[str, ...]:
        """The addresses of the other nodes."""
        return tuple(ip for node, ip in self.addresses.items() if node != self.node)


def devices_text(
    networks: Iterable[PlannedNetwork], underlay: Underlay, present: Collection[str] = ()
) -> str:
    """Return the commands for ``ip -batch`` that make the devices of networks.

    Args:
        networks: the job's networks.
        underlay: what carries them.
        present: names of devices that there are already.
    """
    lines: list[str] = []
    if underlay.peers:
        lines.append(f"address replace {underlay.interface} dev {underlay.bridge}")
    for network in networks:
        bridge, vxlan = bridge_of(network.number), segment_vxlan(network.number)
        mtu = f"mtu {SEGMENT_MTU}"
        if bridge not in present:
            lines.append(
                f"link add name {bridge} {mtu} type bridge forward_delay 0 "
                "stp_state 0 mcast_snooping 0"
            )
        if underlay.peers and vxlan not in present:
            lines.append(
                f"link add name {vxlan} {mtu} type vxlan id {network.number} "
                f"dstport {SEGMENT_PORT} local {underlay.addresses[underlay.node]} "
                f"dev {underlay.bridge} nolearning"
            )
            lines.append(f"link set dev {vxlan} addrgenmode none")
            lines.append(f"link set dev {vxlan} master {bridge} up")
        if bridge not in present:
            lines.append(f"link set dev {bridge} addrgenmode none")
            lines.append(f"link set dev {bridge} up")
    return "".join(f"{line}\n" for line in lines)


def entries_text(
    networks: Iterable[PlannedNetwork],
    underlay: Underlay,
    containers: Iterable[PlannedContainer],
) -> str:
    """Return the commands for ``bridge -batch`` that say where hardware addresses are.

    Args:
        networks: the job's networks.
        underlay: what carries them.
        containers: all containers of the job.
    """
    numbers = {network.number for network in networks}
    lines = [
        f"fdb append {ALL} dev {segment_vxlan(number)} dst {peer} self permanent"
        for number in sorted(numbers)
        for peer in underlay.peers
    ]
    lines += [
        f"fdb replace {interface.hardware} dev {segment_vxlan(interface.number)} "
        f"dst {underlay.addresses[planned.node]} self permanent"
        for planned in containers
        if planned.node != underlay.node
        for interface in planned.interfaces
        if interface.number in numbers
    ]
    return "".join(f"{line}\n" for line in lines)


def make_segments(
    runtime: Runtime,
    networks: Collection[PlannedNetwork],
    underlay: Underlay,
    containers: Collection[PlannedContainer],
) -> None:
    """Make what this node lacks of a job's networks.

    It may run again, with more networks, nodes and containers.

    Raises:
        CommandError: the kernel refuses a device or an entry.
    """
    if not networks:
        return
    shown = runtime.in_network(["ip", "-json", "link", "show"])
    present = {link["ifname"] for link in json.loads(shown or "[]")}
    if text := devices_text(networks, underlay, present):
        runtime.in_network(["ip", "-batch", "-"], text)
    if text := entries_text(networks, underlay, containers):
        runtime.in_network(["bridge", "-batch", "-"], text)
