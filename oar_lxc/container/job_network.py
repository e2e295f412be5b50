"""Make the devices in the job's network namespace on this node, as the job's user."""

from __future__ import annotations

import socket

from oar_lxc.container.job_namespaces import JobNamespaces, NetworkThread
from oar_lxc.linux.run import run
from oar_lxc.model.addresses import MTU
from oar_lxc.model.layout import BRIDGE_INSIDE, UPLINK_INSIDE

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

    Args:
        namespaces: the job's.
        thread: a thread in the network namespace.

    Raises:
        CommandError: the kernel refused a device.
    """
    try:
        thread.call(lambda: socket.if_nametoindex(BRIDGE_INSIDE))
    except OSError:
        run(["ip", "-batch", "-"], input=_MAIN, first=namespaces.become_network_root)
