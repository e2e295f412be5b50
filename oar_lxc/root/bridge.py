"""Make and remove the network devices of a job: its bridge, and the VXLAN between its nodes.

``ip -batch`` makes them in one process of 2 ms. The import of a netlink library would take longer
than a whole prepare may take.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from oar_lxc.errors import CommandError, CommandTimeoutError, OarLxcError, TooLateError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.netlink import NetlinkSocket
from oar_lxc.linux.run import Result, run
from oar_lxc.model.addresses import MTU, VXLAN_PORT, JobNetwork
from oar_lxc.model.layout import UPLINK_INSIDE, JobLayout
from oar_lxc.root.refusal import Refusal

NET = Path("/sys/class/net")
IPV6 = Path("/proc/sys/net/ipv6/conf")
ADDRESSES = Path("/proc/net/fib_trie")
ALL = "00:00:00:00:00:00"  # the VXLAN's entry for broadcasts and unknown addresses
GOING = 0x6F6C7863  # a group of devices ("olxc"), to remove them together
# Hardware addresses that a bridge or a VXLAN learns at most. Containers can send from any number
# of addresses, and each takes memory of the node's for five minutes.
MOST_LEARNED = 8192
TRY = 0.5  # the part of the time that is left, for one try to remove devices
LEAST_TRY = 0.5  # seconds

# Of linux/netlink.h, linux/rtnetlink.h and linux/if_link.h.
_ROUTE = 0
_NEW_LINK, _REQUEST_ANSWER, _ERROR = 16, 5, 2
_LINK_INFO, _INFO_KIND, _INFO_DATA, _FDB_MAX_LEARNED = 18, 1, 2, 49


def holder_of_subnet(network: JobNetwork, timeout: float) -> str:
    """Return the name of a device, which is up, with an address in the job's subnet.

    It is empty if there is none.

    Raises:
        Refusal: the kernel did not answer in time.
    """
    subnet = network.subnet
    with suppress(OSError):  # nearly always nobody holds it; this tells so, and waits for nothing
        if not any(address in subnet for address in own_addresses()):
            return ""
    shown = _run(["ip", "-json", "-4", "address", "show"], timeout=timeout).stdout
    listing = json.loads(shown or "[]")
    for link in listing:
        for address in link.get("addr_info", ()):
            if ip_address(address["local"]) in subnet:
                return str(link["ifname"])
    return ""


def own_addresses() -> list[IPv4Address]:
    """Return the addresses of this machine's devices that are up, from the kernel's routes.

    Raises:
        OSError: the kernel does not tell them.
    """
    found = re.findall(r"\|-- ([0-9.]+)((?:\n +/.*)+)", ADDRESSES.read_text())
    return [IPv4Address(address) for address, routes in found if "/32 host LOCAL" in routes]


def create(layout: JobLayout, network: JobNetwork, node: str, timeout: float) -> list[str]:
    """Make the job's bridge with this node's address and, for several nodes, its VXLAN.

    Args:
        layout: the job's names.
        network: the job's network.
        node: this node's name.
        timeout: seconds for each step that may block, such as looking up the other nodes' names.

    Returns:
        The addresses of the job's other nodes.

    Raises:
        Refusal: another program holds the VXLAN's port, or the kernel was too slow.
        TooLateError: the names of other nodes were not resolved in time.
        CommandError: the kernel refused a device.
        OarLxcError: the address of another node is not known.
    """
    bridge, vxlan, uplink = layout.bridge, layout.vxlan, layout.uplink
    peers = [other for other in network.nodes if other != node]
    addresses: list[str] = []
    lines = [f"link add {bridge} mtu {MTU} type bridge forward_delay 0 stp_state 0"]
    lines.append(
        f"link add {uplink} mtu {MTU} type veth "
        f"peer name {UPLINK_INSIDE} mtu {MTU} netns {layout.network_namespace}"
    )
    devices = [bridge, uplink]
    if peers:
        what = "resolving the names of the job's nodes"
        own, *addresses = bounded(
            lambda: [_own_address(node), *map(_resolve, peers)], timeout, what
        )
        local = f" local {own}" if own else ""
        lines.append(
            f"link add {vxlan} mtu {MTU} type vxlan id {network.vni} dstport {VXLAN_PORT}{local} "
            f"maxaddress {MOST_LEARNED}"
        )
        devices.append(vxlan)
    _run(["ip", "-batch", "-"], "\n".join(lines) + "\n", timeout)
    try:
        bounded(lambda: _tame(bridge, devices), timeout, "taming its bridge")
    except TooLateError as error:
        raise _busy(timeout) from error
    lines = [
        f"link set {bridge} up",
        f"address add {network.node_address(node)} dev {bridge}",
        f"link set {uplink} master {bridge} up",
        *([f"link set {vxlan} master {bridge} up"] if peers else []),
    ]
    try:
        _run(["ip", "-batch", "-"], "\n".join(lines) + "\n", timeout)
    except CommandError as error:
        if peers and os.strerror(errno.EADDRINUSE) in error.stderr:
            raise Refusal(
                f"UDP port {VXLAN_PORT}, which joins the networks of a job's nodes, is in use on "
                f"node {node}: ask the administrator, whom `ss -ulpn sport = :{VXLAN_PORT}` there "
                "shows the program"
            ) from error
        raise
    if peers:
        entries = [f"fdb append {ALL} dev {vxlan} dst {address}" for address in addresses]
        _run(["bridge", "-batch", "-"], "\n".join(entries) + "\n", timeout)
    return addresses


def flooded(layout: JobLayout, timeout: float) -> list[str]:
    """Return the addresses of the other nodes that a job's VXLAN joins; empty without a VXLAN."""
    if not (NET / layout.vxlan).exists():
        return []
    argv = ["bridge", "-json", "fdb", "show", "dev", layout.vxlan]
    listing = json.loads(_run(argv, timeout=timeout, check=False).stdout or "[]")
    return [str(entry["dst"]) for entry in listing if entry["mac"] == ALL and "dst" in entry]


def _own_address(node: str) -> str:
    """Return the address to which this node's name resolves; empty if it is not usable."""
    import socket

    with suppress(OSError, OarLxcError):
        address = _resolve(node)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
        return "" if ip_address(address).is_loopback else address
    return ""


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
    """Return the job's existing devices: first those plugged into its bridge, then its own."""
    names = []
    ports = NET / layout.bridge / "brif"
    with suppress(FileNotFoundError):
        names += [name for name in os.listdir(ports) if name != layout.vxlan]
    own = (layout.uplink, layout.vxlan, layout.bridge)
    names += [name for name in own if name not in names and (NET / name).exists()]
    return names


def remove(layout: JobLayout, deadline: Deadline) -> None:
    """Remove the job's devices; devices that vanish meanwhile are no error.

    The kernel may be busy with the devices of others, for seconds. A program that is killed then
    has done a part, so another one tries again.

    Args:
        layout: the job's names.
        deadline: when to give up.

    Raises:
        Refusal: the kernel was too slow.
    """
    while names := job_links(layout):
        # All at once: removing one device makes the kernel wait as long as removing all.
        lines = [f"link set dev {name} group {GOING}\n" for name in names]
        lines.append(f"link del group {GOING}\n")
        timeout = deadline.part(TRY).timeout()
        try:
            _run(["ip", "-force", "-batch", "-"], "".join(lines), timeout, check=False)
        except Refusal:
            if deadline.left() < LEAST_TRY:
                raise
        else:
            return


def _run(argv: list[str], text: str = "", timeout: float = 0, *, check: bool = True) -> Result:
    """Run ip(8) or bridge(8). If it is late, the kernel holds it up: no fault of the node.

    Raises:
        Refusal: it was late.
        CommandError: it failed.
    """
    try:
        return run(argv, input=text, check=check, timeout=timeout)
    except CommandTimeoutError as error:
        raise _busy(timeout) from error


def _busy(timeout: float) -> Refusal:
    return Refusal(
        f"the kernel of its node took longer than {timeout:.1f} s for a network device, as it "
        "does while it removes very many of others; submit the job again later"
    )


def _tame(bridge: str, devices: Sequence[str]) -> list[str]:
    """Limit what a bridge learns, and let the node speak no IPv6 on some devices.

    It must be before they are up, or the node would take routes and addresses that containers
    advertise.
    """
    with suppress(OSError):  # the kernel has no such limit; from 6.8 on, it has
        _limit_learned(bridge)
    for name in devices:
        with suppress(FileNotFoundError):  # a node without IPv6
            (IPV6 / name / "disable_ipv6").write_text("1")
    return []


def _limit_learned(bridge: str) -> None:
    """Limit what a bridge learns; ip(8) of Debian 12 cannot.

    Raises:
        OSError: the kernel refused.
    """
    data = _attribute(_FDB_MAX_LEARNED, struct.pack("=I", MOST_LEARNED))
    info = _attribute(_INFO_KIND, b"bridge\0") + _attribute(_INFO_DATA, data)
    index = int((NET / bridge / "ifindex").read_text())
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + _attribute(_LINK_INFO, info)
    with NetlinkSocket(_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), _NEW_LINK, _REQUEST_ANSWER, 1, 0) + body)
        kind, code = struct.unpack_from("=4xH10xi", kernel.receive(1 << 12))
    if kind == _ERROR and code:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data.ljust(len(data) + 3 & ~3, b"\0")
