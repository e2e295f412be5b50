"""Network devices of a job: its bridge, and the VXLAN that joins the bridges of its nodes.

``ip -batch`` makes them in one process of 2 ms; a netlink library would take longer to import
than the whole of prepare may last.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.network import MTU, JobNetwork
from oar_lxc.node.bounded import bounded
from oar_lxc.run import run

NET = Path("/sys/class/net")
VXLAN_PORT = 4789  # RFC 7348
GOING = 0x6F6C7863  # the group of devices ("olxc") in which they are removed


def holder_of_subnet(network: JobNetwork, timeout: float) -> str:
    """Return the name of another device that has an address in the job's subnet, or nothing."""
    subnet = network.subnet
    shown = run(["ip", "-json", "-4", "address", "show"], timeout=timeout).stdout
    listing = json.loads(shown or "[]")
    for link in listing:
        for address in link.get("addr_info", ()):
            if ip_address(address["local"]) in subnet:
                return str(link["ifname"])
    return ""


def create(layout: JobLayout, network: JobNetwork, node: str, timeout: float) -> None:
    """Make the job's bridge with this node's address and, for several nodes, its VXLAN.

    Args:
        layout: the job's names.
        network: the job's network.
        node: this node's name.
        timeout: seconds for each thing that may block, the names of the other nodes among them.

    Raises:
        TooLateError: the names of other nodes were not resolved in time.
        CommandError: the kernel refused one.
        OarLxcError: the address of another node is not known.
    """
    bridge = layout.bridge
    address = network.node_address(node)
    lines = [
        f"link add {bridge} type bridge forward_delay 0 stp_state 0",
        f"link set {bridge} mtu {MTU} up",
        f"address add {address} dev {bridge}",
    ]
    peers = [other for other in network.nodes if other != node]
    if peers:
        vxlan = layout.vxlan
        lines += [
            f"link add {vxlan} type vxlan id {network.vni} dstport {VXLAN_PORT}",
            f"link set {vxlan} mtu {MTU} master {bridge} up",
        ]
    run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", timeout=timeout)
    if peers:
        what = "resolving the names of the job's other nodes"
        addresses = bounded(lambda: [_resolve(peer) for peer in peers], timeout, what)
        entries = [
            f"fdb append 00:00:00:00:00:00 dev {layout.vxlan} dst {address}"
            for address in addresses
        ]
        run(["bridge", "-batch", "-"], input="\n".join(entries) + "\n", timeout=timeout)


def _resolve(node: str) -> str:
    import socket  # only a job of several nodes needs it

    try:
        found = socket.getaddrinfo(node, None, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        raise OarLxcError(
            f"the address of node {node} is not known here ({error}): every node of the cluster "
            "must resolve the names of the others, by DNS or /etc/hosts"
        ) from error
    return str(found[0][4][0])


def job_links(layout: JobLayout) -> list[str]:
    """Return the job's devices that exist: what is plugged into its bridge, then its own."""
    names = []
    ports = NET / layout.bridge / "brif"
    with suppress(FileNotFoundError):
        names += [name for name in os.listdir(ports) if name != layout.vxlan]
    names += [name for name in (layout.vxlan, layout.bridge) if (NET / name).exists()]
    return names


def remove(layout: JobLayout, timeout: float) -> None:
    """Remove the job's devices; those that go by themselves meanwhile are fine."""
    names = job_links(layout)
    if names:
        # All in one go: each by itself makes the kernel wait for as long as all of them do.
        lines = [f"link set dev {name} group {GOING}\n" for name in names]
        lines.append(f"link del group {GOING}\n")
        run(["ip", "-force", "-batch", "-"], input="".join(lines), check=False, timeout=timeout)
