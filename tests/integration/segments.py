"""Nodes and containers for tests of networks, as network namespaces of this machine.

A node is a namespace as a job has it: a bridge ``br0`` with an address, and ``up0``, by which it
is joined to the other nodes. A container is a namespace with the other ends of its interfaces.
Programs enter it as they do on a node, where it is the job's.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast

from oar_lxc.container.emulation import commands, losses_text
from oar_lxc.container.links import apply
from oar_lxc.container.runtime import Runtime
from oar_lxc.container.segments import Underlay, make_segments
from oar_lxc.linux.run import Result, run
from oar_lxc.model.addresses import MTU, SEGMENT_MTU, JobNetwork
from oar_lxc.model.job import Job
from oar_lxc.model.layout import BRIDGE_INSIDE, bridge_of, outer_device
from oar_lxc.model.plan import Plan, PlannedContainer, make_plan
from oar_lxc.model.shaping import Shaping, shapings
from oar_lxc.model.spec import Spec
from tests.unit.fakes.programs import wait_until

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 7007)) as server:
    server.settimeout(10)
    print("ready", flush=True)
    sys.stdout.write(server.accept()[0].makefile().read())
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 7007), 4) as peer:
    peer.sendall(sys.argv[2].encode())
"""
_tags = (f"t{os.getpid()}-{number}" for number in itertools.count())


@dataclass
class Cluster:
    """Nodes with the containers of a plan.

    Attributes:
        plan: what there is.
        tag: what the names of its namespaces begin with.
        present: what emulation is at each node, by the node's name.
    """

    plan: Plan
    tag: str = field(default_factory=lambda: next(_tags))
    present: dict[str, list[Shaping]] = field(default_factory=dict)

    def entering(self, place: str) -> list[str]:
        """Return what goes before a command to run it in a node or a container."""
        return ["ip", "netns", "exec", f"{self.tag}-{place}"]

    def inside(self, place: str, *argv: str, check: bool = True, timeout: float = 60) -> Result:
        """Run a program in a node or a container."""
        return run([*self.entering(place), *argv], check=check, timeout=timeout)

    def reaches(self, source: str, address: str, seconds: float = 30) -> bool:
        """Whether an address answers one of the pings of some seconds from a container.

        A link may lose some, and a kernel that has asked in vain who has an address says for a
        while that it is not reached.
        """
        argv = ("ping", "-n", "-c", "1", "-W", "1", address)
        return wait_until(lambda: self.inside(source, *argv, check=False).status == 0, seconds)

    def talks(self, source: str, target: str, address: str) -> bool:
        """Whether a TCP connection carries a line to another container at one of its addresses.

        In another network, the address may be somebody else's.
        """
        argv = [*self.entering(target), "/usr/bin/python3", "-c", SERVER, address]
        line = f"{source} to {target}"
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                client = ("/usr/bin/python3", "-c", CLIENT, address, line)
                if self.inside(source, *client, check=False).status != 0:
                    return False
                return server.communicate(timeout=10)[0] == line
            finally:
                server.kill()

    def ip(self, container: str, network: str) -> str:
        """Return a container's address in a network."""
        (found,) = (c for c in self.plan.containers if c.name == container)
        interface = found.interface(network)
        assert interface is not None
        return interface.ip

    def on(self, node: str) -> Runtime:
        """Return a runtime of which only the network is there."""
        return cast(Runtime, _OnlyNetwork(self, node))

    def emulate(self, plan: Plan) -> None:
        """Let all nodes do what a plan's links say, with what they do by now."""
        self.plan = plan
        for node in nodes_of(plan):
            wanted = list(shapings(plan.links, plan.containers, plan.on(node)))
            offline = [c.ip for c in plan.on(node) if not c.internet]
            main = str(JobNetwork.of(plan.job_id, nodes_of(plan)).subnet)
            present = self.present.get(node, [])
            losses = losses_text(wanted, offline, main)
            apply(self.on(node), commands(wanted, present), losses)
            self.present[node] = wanted


def nodes_of(plan: Plan) -> list[str]:
    """Return the names of the nodes of a plan."""
    return sorted({container.node for container in plan.containers})


class _OnlyNetwork:
    """The network of a node, as a runtime has it."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._node = node

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        return run([*self._cluster.entering(self._node), *argv], input=text).stdout


@contextmanager
def cluster_of(spec: Spec, nodes: int = 2) -> Iterator[Cluster]:
    """Make the nodes and containers of a spec, run the block, and remove all of it."""
    job = Job(42, "alice", {f"node{number}": 8 for number in range(1, nodes + 1)})
    plan = make_plan(spec, job)
    network = JobNetwork.of(job.id, job.nodes)
    cluster = Cluster(plan)
    with ExitStack() as stack:
        stack.enter_context(_namespace(cluster, "lan"))
        _batch(cluster, "lan", "link add name lan0 type bridge", "link set lan0 up")
        for number, node in enumerate(job.nodes):
            stack.enter_context(_namespace(cluster, node))
            _batch(
                cluster,
                node,
                f"link add name {BRIDGE_INSIDE} mtu {MTU} type bridge",
                f"link add name up0 mtu {MTU} type veth peer name port{number} "
                f"netns {cluster.tag}-lan",
                f"link set up0 master {BRIDGE_INSIDE} up",
                f"link set {BRIDGE_INSIDE} up",
            )
            _batch(cluster, "lan", f"link set port{number} master lan0 up")
        for node in job.nodes:
            underlay = Underlay(node, network.underlay)
            make_segments(cluster.on(node), plan.networks, underlay, plan.containers)
        for planned in plan.containers:
            stack.enter_context(_namespace(cluster, planned.name))
            _connect(cluster, planned)
        cluster.emulate(plan)
        yield cluster


def _connect(cluster: Cluster, planned: PlannedContainer) -> None:
    """Make the interfaces of a container, as LXC does by its configuration."""
    for interface in planned.all_interfaces:
        outer = outer_device(planned.ip, interface.index)
        bridge = bridge_of(interface.number)
        mtu = SEGMENT_MTU if interface.number else MTU
        _batch(
            cluster,
            planned.node,
            f"link add name {outer} mtu {mtu} type veth peer name {interface.device} mtu {mtu} "
            f"address {interface.hardware} netns {cluster.tag}-{planned.name}",
            f"link set {outer} master {bridge} up",
        )
        lines = [f"link set {interface.device} up"]
        lines.append(f"address add {interface.address} dev {interface.device}")
        if interface.ipv6:
            lines.append(f"address add {interface.ipv6} dev {interface.device} nodad")
        _batch(cluster, planned.name, *lines)
    if planned.gateway:
        _batch(cluster, planned.name, f"route add default via {planned.gateway}")
    if planned.forward:
        cluster.inside(planned.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def _batch(cluster: Cluster, place: str, *lines: str) -> None:
    argv = [*cluster.entering(place), "ip", "-batch", "-"]
    run(argv, input="".join(f"{line}\n" for line in lines))


@contextmanager
def _namespace(cluster: Cluster, name: str) -> Iterator[None]:
    run(["ip", "netns", "add", f"{cluster.tag}-{name}"])
    try:
        _batch(cluster, name, "link set lo up")
        yield
    finally:
        run(["ip", "netns", "del", f"{cluster.tag}-{name}"])


def qdiscs(cluster: Cluster, node: str, kind: str) -> Sequence[str]:
    """Return the devices of a node that have a qdisc of a kind."""
    shown = cluster.inside(node, "tc", "-json", "qdisc", "show").stdout
    return sorted(one["dev"] for one in json.loads(shown) if one["kind"] == kind)


def rate(cluster: Cluster, source: str, address: str, target: str, *options: str) -> float:
    """Return how many bits a second a TCP connection carries from one container to another."""
    argv = [*cluster.entering(target), "iperf3", "--server", "--one-off", "--forceflush"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            while b"listening" not in server.stdout.readline():
                pass
            client = ("iperf3", "--client", address, "--time", "4", "--omit", "1", "--json")
            told = json.loads(cluster.inside(source, *client, *options).stdout)
            return float(told["end"]["sum_received"]["bits_per_second"])
        finally:
            server.kill()
