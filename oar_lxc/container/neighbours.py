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
from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from oar_lxc.container.lxc_config import hardware_address
from oar_lxc.linux.setns import NEW_NETWORK, enter

# These are numbers of entries on one node. Fewer than the first do not fill the table. More than
# the last would cost too much, as an entry takes half a KiB of kernel memory: then the
# administrator must enlarge the table.
FEWEST, MOST = 64, 65536
DEVICE = "eth0"
_NEW_NEIGHBOUR = 28  # RTM_NEWNEIGH of rtnetlink(7)
_FLAGS = 0x501  # NLM_F_REQUEST | NLM_F_REPLACE | NLM_F_CREATE
_PERMANENT = 0x80  # NUD_PERMANENT
# struct nlmsghdr, struct ndmsg, and the attributes NDA_DST and NDA_LLADDR
_ENTRY = struct.Struct("=IHHII BxHiHBB HH4s HH6s2x")
_PART = 512  # entries that go to the kernel at once; fewer than a socket's buffer holds


def are_told(addresses: Collection[str], here: int) -> bool:
    """Whether containers are told their neighbours.

    Args:
        addresses: IPv4 addresses of all containers of the job.
        here: how many containers of this node are told.
    """
    return FEWEST <= here * len(addresses) <= MOST


def tell(pids: Sequence[int], addresses: Sequence[str]) -> None:
    """Make the entries in containers; leave out those that have ended.

    The process must be in the job's user namespace.

    Args:
        pids: the process ids of the containers' inits.
        addresses: IPv4 addresses of all containers of the job.
    """
    # In a thread, which ends in the network of the last container.
    thread = threading.Thread(target=_tell, args=(pids, addresses))
    thread.start()
    thread.join()


def _tell(pids: Sequence[int], addresses: Sequence[str]) -> None:
    pairs = [(IPv4Address(address).packed, _hardware(address)) for address in addresses]
    for pid in pids:
        with suppress(OSError):
            enter(Path(f"/proc/{pid}/ns/net"), NEW_NETWORK)
            index = socket.if_nametoindex(DEVICE)
            entries = [_entry(index, packed, hardware) for packed, hardware in pairs]
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
                for begin in range(0, len(entries), _PART):
                    kernel.send(b"".join(entries[begin : begin + _PART]))


def _hardware(address: str) -> bytes:
    return bytes.fromhex(hardware_address(address).replace(":", ""))


def _entry(index: int, packed: bytes, hardware: bytes) -> bytes:
    header = (_ENTRY.size, _NEW_NEIGHBOUR, _FLAGS, 0, 0)
    neighbour = (socket.AF_INET, 0, index, _PERMANENT, 0, 0)
    return _ENTRY.pack(*header, *neighbour, 8, 1, packed, 10, 2, hardware)
