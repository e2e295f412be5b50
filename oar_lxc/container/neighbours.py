"""Tell containers the hardware addresses of the job's other containers, for good.

All containers of a node share one neighbour table of the kernel, which has few entries. Permanent
entries do not count, so containers that all talk to each other do not fill the table. They never
go out of date, as a container's hardware address follows from its IPv4 address.

A container that reboots from inside gets a new network namespace, and finds the others as usual.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from oar_lxc.linux.setns import NEW_NETWORK, enter
from oar_lxc.model.addresses import hardware_address
from oar_lxc.model.description import Device
from oar_lxc.model.names import MAIN, Peer

# These are numbers of entries on one node. Fewer than the first do not fill the table. More than
# the last would cost too much, as an entry takes half a KiB of kernel memory: then the
# administrator must enlarge the table.
FEWEST, MOST = 64, 65536
_NEW_NEIGHBOUR = 28  # RTM_NEWNEIGH of rtnetlink(7)
_FLAGS = 0x501  # NLM_F_REQUEST | NLM_F_REPLACE | NLM_F_CREATE
_PERMANENT = 0x80  # NUD_PERMANENT
# struct nlmsghdr, struct ndmsg, and the attributes NDA_DST and NDA_LLADDR
_ENTRY = struct.Struct("=IHHII BxHiHBB HH4s HH6s2x")
_PART = 512  # entries that go to the kernel at once; fewer than a socket's buffer holds


class Neighbour(NamedTuple):
    """An entry.

    Attributes:
        device: the interface that leads to the neighbour.
        address: the neighbour's IPv4 address, packed.
        hardware: its hardware address, packed.
    """

    device: str
    address: bytes
    hardware: bytes


def neighbours_of(peers: Mapping[str, Peer], devices: Mapping[str, Device]) -> list[Neighbour]:
    """Return the neighbours of a container, in all its networks.

    Args:
        peers: all containers of the job.
        devices: the container's interface in each of its networks.
    """
    found = []
    for network, device in devices.items():
        for peer in peers.values():
            address = (
                peer.ip if network == MAIN else next(iter(peer.networks.get(network, ())), "")
            )
            if address:
                hardware = bytes.fromhex(hardware_address(address, device.number).replace(":", ""))
                found.append(Neighbour(device.name, IPv4Address(address).packed, hardware))
    return found


def are_told(entries: int) -> bool:
    """Whether containers are told their neighbours, if these are so many entries on the node."""
    return FEWEST <= entries <= MOST


def tell(neighbours: Mapping[int, Sequence[Neighbour]]) -> None:
    """Make the entries in containers; leave out those that have ended.

    The process must be in the job's user namespace.

    Args:
        neighbours: the entries of each container, by the process id of its init.
    """
    # In a thread, which ends in the network of the last container.
    thread = threading.Thread(target=_tell, args=(neighbours,))
    thread.start()
    thread.join()


def _tell(neighbours: Mapping[int, Sequence[Neighbour]]) -> None:
    for pid, told in neighbours.items():
        with suppress(OSError):
            enter(Path(f"/proc/{pid}/ns/net"), NEW_NETWORK)
            indexes = {name: index for index, name in socket.if_nameindex()}
            entries = [
                _entry(indexes[device], address, hardware)
                for device, address, hardware in told
                if device in indexes
            ]
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
                for begin in range(0, len(entries), _PART):
                    kernel.send(b"".join(entries[begin : begin + _PART]))


def _entry(index: int, packed: bytes, hardware: bytes) -> bytes:
    header = (_ENTRY.size, _NEW_NEIGHBOUR, _FLAGS, 0, 0)
    neighbour = (socket.AF_INET, 0, index, _PERMANENT, 0, 0)
    return _ENTRY.pack(*header, *neighbour, 8, 1, packed, 10, 2, hardware)
