"""Compute the addresses of a job's containers, the same on every node.

A job's subnet follows from its id. The nodes' addresses follow from the order of their names. A
container's address follows from its number in the plan. So all nodes, which root prepares in
parallel, and the user's script agree without communication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from oar_lxc.errors import SpecError

# The default: RFC 6598 reserves it, so neither the internet nor private networks use it.
POOL = IPv4Network("100.64.0.0/10")
PREFIX = 21  # 2,046 addresses per job; in a /10, each 2,048th job gets the same subnet
MTU = 1450  # bytes that a VXLAN leaves of 1,500
# No service has this port registered. It is below 1024, so that no user can bind it, and below
# 512, as bindresvport(3) gives the ports from 512 on to daemons.
VXLAN_PORT = 289
# The same for the networks inside of a job, which its main network carries.
SEGMENT_PORT = 290
SEGMENT_MTU = MTU - 50  # bytes that a second VXLAN leaves


@dataclass(frozen=True)
class JobNetwork:
    """The network of one job.

    Args:
        job_id: OAR's job id.
        nodes: names of all its nodes, sorted.
        pool: the network that the cluster gives to jobs.
    """

    job_id: int
    nodes: tuple[str, ...]
    pool: IPv4Network = POOL

    @classmethod
    def of(cls, job_id: int, nodes: Sequence[str], pool: IPv4Network = POOL) -> JobNetwork:
        """Make the network of a job from its nodes, which may repeat and come in any order."""
        return cls(job_id, tuple(sorted(set(nodes))), pool)

    @property
    def subnet(self) -> IPv4Network:
        """The job's part of the pool."""
        size = 1 << (32 - PREFIX)
        index = self.job_id % (self.pool.num_addresses // size)
        return IPv4Network((int(self.pool.network_address) + index * size, PREFIX))

    @property
    def capacity(self) -> int:
        """How many containers the job can have on all its nodes."""
        return self.subnet.num_addresses - 2 - len(self.nodes)

    @property
    def vni(self) -> int:
        """The job's VXLAN network identifier (24 bits)."""
        return self.job_id & 0xFFFFFF

    def node_address(self, node: str) -> IPv4Interface:
        """Return the address of a node's bridge, the gateway of its containers."""
        return self._address(self.nodes.index(node))

    def underlay_address(self, node: str) -> IPv4Interface:
        """Return the address by which a node carries the job's other networks.

        They are the last of the subnet: if the job has other networks, no container has them.
        """
        return self._address(self.subnet.num_addresses - 3 - self.nodes.index(node))

    @property
    def underlay(self) -> dict[str, str]:
        """The addresses of all nodes by which they carry the job's other networks."""
        return {node: str(self.underlay_address(node).ip) for node in self.nodes}

    def container_address(self, index: int) -> IPv4Interface:
        """Return the address of the container with this number, counted over the whole job.

        Raises:
            SpecError: the job's subnet has no address left.
        """
        if index >= self.capacity:
            raise SpecError(
                f"the job's network has {self.capacity} addresses for containers; "
                f"container number {index + 1} would have none: ask for fewer containers"
            )
        return self._address(len(self.nodes) + index)

    def _address(self, offset: int) -> IPv4Interface:
        address = IPv4Address(int(self.subnet.network_address) + 1 + offset)
        return IPv4Interface((address, PREFIX))


def hardware_address(address: str, number: int = 0) -> str:
    """Return the hardware address of an interface, made from its IPv4 address and its network.

    A random address would change with each start, and for some seconds neighbours would still send
    to the old one.

    Args:
        address: the IPv4 address.
        number: the network's number in the job; 0 is the main network.
    """
    packed = IPv4Address(address).packed
    return f"02:{0x6C + number:02x}:" + ":".join(f"{byte:02x}" for byte in packed)
