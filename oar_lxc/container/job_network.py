"""Make the devices in the job's network namespace on this node, as the job's user."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

from oar_lxc.container.job_namespaces import JobNamespaces, NetworkThread
from oar_lxc.linux.run import run
from oar_lxc.model.addresses import MTU
from oar_lxc.model.layout import BRIDGE_INSIDE, UPLINK_INSIDE

_GET_FLAGS, _UP = 0x8913, 1  # SIOCGIFFLAGS and IFF_UP of netdevice(7)
_NONE = 0  # the flags of no device: each has some, such as that it takes broadcasts
# The bridge has no address: it only joins the containers to the node's bridge of the job.
_MAIN = f"""\
link set lo up
link add {BRIDGE_INSIDE} mtu {MTU} type bridge forward_delay 0 stp_state 0
link set {BRIDGE_INSIDE} addrgenmode none
link set {UPLINK_INSIDE} addrgenmode none
link set {UPLINK_INSIDE} master {BRIDGE_INSIDE} up
link set {BRIDGE_INSIDE} up
"""


def make_bridge(namespaces: JobNamespaces, thread: NetworkThread) -> None:
    """Make the bridge that joins containers and uplink, unless it is there.

    That it is up is the last that is done, so a bridge that is not up is half made.

    Args:
        namespaces: the job's.
        thread: a thread in the network namespace.

    Raises:
        CommandError: the kernel refused a device.
    """
    flags = thread.call(_flags)
    if flags & _UP:
        return
    remove = f"link del {BRIDGE_INSIDE}\n" if flags != _NONE else ""
    run(["ip", "-batch", "-"], input=remove + _MAIN, first=namespaces.become_network_root)


def _flags() -> int:
    """Return the flags of the bridge in this thread's network; :data:`_NONE` if there is none."""
    request = struct.pack("16s24x", BRIDGE_INSIDE.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            return int.from_bytes(fcntl.ioctl(asked, _GET_FLAGS, request)[16:18], sys.byteorder)
        except OSError:
            return _NONE
