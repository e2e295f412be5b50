"""Remove the connections of a job's containers from the node's table of connections.

The kernel keeps a connection that was not closed for five days, and one whose far end goes on
sending for ever. It keeps the port of the node that the connection leaves from, which other jobs
then lack, and it would hand packets of the far end to a later job with the same addresses.

conntrack(8) would be one more package on each node, for two kinds of messages to the kernel
(linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.netlink import NetlinkSocket
from oar_lxc.model.addresses import PREFIX, JobNetwork
from oar_lxc.model.config import lenient_config
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import bridge

ROUTES = Path("/proc/net/route")
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
ROUNDS = 5  # searches, as a packet under way may add a connection again

_NETFILTER = 12  # linux/netlink.h
_GET, _DELETE = 0x101, 0x102  # of the subsystem for connections
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_IPV4 = struct.pack("=BBH", 2, 0, 0)  # struct nfgenmsg
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_TUPLE = _HEAD.size + len(_IPV4)  # where the tuple of a connection's first packet begins
# In it: attributes for the tuple, its addresses and the source, then one for the target.
_SOURCE, _TARGET = slice(_TUPLE + 12, _TUPLE + 16), slice(_TUPLE + 20, _TUPLE + 24)
_LARGEST = 1 << 17  # bytes of an answer
_AT_ONCE = 200  # connections to remove by one message
_ORDER = -1 if sys.byteorder == "little" else 1  # of the bytes of addresses in ROUTES


def subnet_of(layout: JobLayout, timeout: float) -> IPv4Network | None:
    """Return a job's subnet; None if another job may have it by now.

    It is that of the job's bridge. Without the bridge it is the one that the configuration gives
    to the job, unless a device of another job has an address in it.

    Args:
        layout: the job's names.
        timeout: seconds.

    Raises:
        OarLxcError: the devices cannot be listed.
    """
    # The other ways to ask wait for the kernel's lock of network devices, which may take minutes.
    for line in ROUTES.read_text().splitlines():
        device, target, *_ = line.split()
        if device == layout.bridge:
            return IPv4Network((bytes.fromhex(target)[::_ORDER], PREFIX), strict=False)
    network = JobNetwork(layout.job_id, (), lenient_config()[0].pool)
    return None if bridge.holder_of_subnet(network, timeout) else network.subnet


def forget(subnet: IPv4Network, deadline: Deadline, count: Path = COUNT) -> None:
    """Remove the connections from and to a subnet; "already gone" is success.

    Args:
        subnet: the subnet of a job whose devices are gone.
        deadline: when to give up.
        count: the kernel's file with the number of connections; missing where none are tracked.

    Raises:
        TooLateError: the deadline has passed.
        OarLxcError: connections come back.
        OSError: the kernel refuses.
    """
    try:
        if int(count.read_text()) == 0:
            return
    except FileNotFoundError:
        return
    with NetlinkSocket(_NETFILTER) as kernel:
        for _ in range(ROUNDS):
            try:
                found = list(_connections(kernel, subnet, deadline))
            except TimeoutError:
                raise _late(subnet) from None
            if not found:
                return
            for start in range(0, len(found), _AT_ONCE):
                messages = [_message(_DELETE, 0, x) for x in found[start : start + _AT_ONCE]]
                kernel.send(b"".join(messages))
    raise OarLxcError(f"connections of {subnet} come back")


def _connections(
    kernel: NetlinkSocket, subnet: IPv4Network, deadline: Deadline
) -> Iterator[bytes]:
    """Yield the tuples of the connections from and to a subnet, as attributes of a message."""
    first, last = (IPv4Address(x).packed for x in (subnet[0], subnet[-1]))
    kernel.send(_message(_GET, _DUMP, b""))
    while True:
        answer = kernel.receive(_LARGEST, deadline.timeout())
        if deadline.passed:
            raise _late(subnet)
        place = 0
        while place + _HEAD.size <= len(answer):
            length, kind, _, asked, _ = _HEAD.unpack_from(answer, place)
            message = answer[place : place + length]
            place += max(_HEAD.size, length + 3 & ~3)
            if asked != _GET:
                continue  # the answer to the removal of one that was gone
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", message, _HEAD.size)[0]
                raise OSError(code, f"the table of connections: {os.strerror(code)}")
            if first <= message[_SOURCE] <= last or first <= message[_TARGET] <= last:
                (size,) = struct.unpack_from("=H", message, _TUPLE)
                yield message[_TUPLE : _TUPLE + (size + 3 & ~3)]


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    """Return a message, with its kind as its number, by which its answers are known."""
    length = _HEAD.size + len(_IPV4) + len(attributes)
    return _HEAD.pack(length, kind, _REQUEST | flags, kind, 0) + _IPV4 + attributes


def _late(subnet: IPv4Network) -> TooLateError:
    return TooLateError(f"the time was over before all connections of {subnet} were gone")
