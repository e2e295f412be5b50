"""A node of its own for tests of networks, with machines around it: namespaces of this machine.

The node has network and mount namespaces, so that nothing here touches the machine's own packet
filter. It shares the machine's files and cgroups: :class:`tests.pretend.PretendJob` works on it.
"""

from __future__ import annotations

import json
import pwd
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import IO

from oar_lxc.linux.run import Result, run
from oar_lxc.model.addresses import POOL, JobNetwork
from oar_lxc.model.layout import BRIDGE_INSIDE, STATE, JobLayout
from oar_lxc.setup.network import OTHERS, OWN
from tests.integration.attacks import in_network
from tests.integration.conftest import next_id
from tests.pretend import PYTHON, PretendJob, checkout

NODE = "10.231.7.11"
SYS = "d=$(mktemp -d); mount --rbind /sys/fs/cgroup $d; mount -t sysfs sysfs /sys; "
SYS += "mount --move $d /sys/fs/cgroup; rmdir $d; ip link set lo up; "
# What a launch does first in the job's network.
BRIDGE = """
import sys
from oar_lxc.container.job_namespaces import JobNamespaces, NetworkThread
from oar_lxc.container.job_network import make_bridge
from oar_lxc.model.layout import JobLayout
namespaces = JobNamespaces(JobLayout(int(sys.argv[1])))
namespaces.enter()
make_bridge(namespaces, NetworkThread(namespaces))
"""
READY = "echo ready; exec sleep 100000"


@contextmanager
def held(*argv: str) -> Iterator[int]:
    """Yield the id of a process that holds namespaces, and kill it in the end."""
    with subprocess.Popen([*argv, "sh", "-ec", READY], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@dataclass
class Place:
    """Somewhere that programs run: a machine, the node, or a container.

    Attributes:
        enter: what goes before a command.
        address: its address.
        pid: a process in it.
    """

    enter: Sequence[str]
    address: str
    pid: int = 0

    def run(
        self,
        *argv: str,
        check: bool = True,
        user: str = "",
        input: str | None = None,
        timeout: float = 60,
    ) -> Result:
        """Run a program, as root or a user."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        argv = (*self.enter, *become, *argv)
        return run(list(argv), check=check, input=input, timeout=timeout)

    def python(self, script: str, *arguments: str, user: str = "", timeout: float = 60) -> str:
        """Run a script of Python; return what it wrote."""
        argv = [PYTHON, "-IS", "-c", "import socket, struct, sys, time\n" + script, *arguments]
        return self.run(*argv, user=user, timeout=timeout).stdout

    @contextmanager
    def server(self, script: str, *arguments: str, user: str = "") -> Iterator[IO[str]]:
        """Run a script beside the test once it has said "ready"; yield its output."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        argv = [PYTHON, "-ISu", "-c", "import socket, struct, sys, time\n" + script, *arguments]
        with subprocess.Popen(
            [*self.enter, *become, *argv], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process.stdout
            finally:
                process.kill()


class Lan:
    """A node, and machines that it reaches without a router between.

    Attributes:
        node: the node.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        pid = stack.enter_context(held("unshare", "-m", "-n"))
        self.node = Place(["nsenter", "-t", str(pid), "-m", "-n"], NODE, pid)
        self.node.run("sh", "-ec", SYS)
        self.node.run("ip", "link", "add", "lan", "type", "bridge")
        self.node.run("ip", "address", "add", f"{NODE}/24", "dev", "lan")
        self.node.run("ip", "link", "set", "lan", "up")
        # What the unit of set-up does, besides the packet filter.
        self.node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        pair = ["from", str(POOL), "to", str(POOL)]
        rule = ["ip", "rule", "add", "priority"]
        self.node.run(*rule, str(OWN), *pair, "iif", "lo", "lookup", "main")
        self.node.run(*rule, str(OTHERS), *pair, "prohibit")
        self.command("filter")

    def command(self, *arguments: str, check: bool = True) -> Result:
        """Run ``oar-lxc-node`` on the node."""
        node_side = [PYTHON, "-IS", str(checkout() / "oar-lxc-node")]
        return self.node.run(*node_side, *arguments, check=check)

    def machine(self, number: int) -> Place:
        """Add a machine with this number as the last of its address."""
        pid = self._stack.enter_context(held("unshare", "-n"))
        place = Place(["nsenter", "-t", str(pid), "-n"], f"10.231.7.{number}", pid)
        port = f"port{number}"
        peer = ["peer", "name", "eth0", "netns", str(pid)]
        self.node.run("ip", "link", "add", port, "type", "veth", *peer)
        self.node.run("ip", "link", "set", port, "master", "lan", "up")
        for line in ("address add {}/24 dev eth0", "link set eth0 up", "link set lo up"):
            place.run("ip", *line.format(place.address).split())
        return place

    def job(self, user: str, *peers: Place) -> NetJob:
        """Prepare the node for a job, with other machines as its other nodes."""
        job = NetJob(PretendJob(next_id(), user), self, peers)
        job.pretend.make_cgroups()
        self._stack.callback(job.end)
        job.prepare()
        return job


@dataclass
class NetJob:
    """A job on the node of a LAN.

    Attributes:
        pretend: its cgroups and user.
        lan: where its node is.
        peers: its other nodes.
    """

    pretend: PretendJob
    lan: Lan
    peers: Sequence[Place] = ()

    @property
    def network(self) -> JobNetwork:
        """Its network."""
        return JobNetwork.of(self.pretend.id, [NODE, *(peer.address for peer in self.peers)])

    @property
    def layout(self) -> JobLayout:
        """Its names."""
        return JobLayout(self.pretend.id)

    @property
    def gateway(self) -> str:
        """The address of its bridge."""
        return str(self.network.node_address(NODE).ip)

    def _node_side(self, command: str, *arguments: str) -> Result:
        job = self.pretend
        argv = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup, *arguments]
        return self.lan.command(command, *argv)

    def prepare(self) -> None:
        """Prepare its node."""
        self._node_side("prepare", "--node", NODE, "--nodes", ",".join(self.network.nodes))

    def end(self) -> None:
        """Destroy what it has, and all that OAR would."""
        job = self.pretend
        if (STATE / "jobs" / str(job.id)).exists() or self.rules():
            self._node_side("destroy")
        job.remove_cgroups()

    def rules(self) -> list[str]:
        """Return what the packet filter has of it, by the tests' own reader."""
        kernel = Path(__file__).parent.parent / "kernel.py"
        argv = [PYTHON, "-I", str(kernel), "--job", str(self.pretend.id)]
        argv += ["--user", self.pretend.user, "--first-id", "0"]
        found: list[str] = json.loads(self.lan.node.run(*argv).stdout)["rules"]
        return found

    @contextmanager
    def container(self, index: int = 0) -> Iterator[Place]:
        """Yield what a container is to the network, made as LXC does."""
        account = pwd.getpwnam(self.pretend.user)
        address = self.network.container_address(index)
        become = [*self.lan.node.enter, "setpriv", f"--reuid={account.pw_uid}"]
        become += [f"--regid={account.pw_gid}", "--init-groups", "--"]
        inside = [*become, *in_network(self.pretend)]
        run(
            [
                *become,
                "env",
                f"PYTHONPATH={checkout()}",
                PYTHON,
                "-c",
                BRIDGE,
                str(self.pretend.id),
            ]
        )
        mine = f"echo $$; {READY}"
        with subprocess.Popen(
            [*inside, "unshare", "-n", "-m", "sh", "-ec", mine], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                pid = int(process.stdout.readline())
                enter = ["nsenter", "-t", str(pid), "-U", "-n", "-m", "-S", "0", "-G", "0", "--"]
                peer = ["peer", "name", "eth0", "netns", str(pid)]
                link = f"veth{index}"
                run([*inside, "ip", "link", "add", link, "mtu", "1450", "type", "veth", *peer])
                run([*inside, "ip", "link", "set", link, "master", BRIDGE_INSIDE, "up"])
                place = Place(enter, str(address.ip), pid)
                _configure(place, address, self.gateway)
                yield place
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                subprocess.run(["kill", "-9", str(pid)], check=False)


def _configure(place: Place, address: IPv4Interface, gateway: str) -> None:
    hardware = "02:6c:" + ":".join(f"{byte:02x}" for byte in address.ip.packed)
    lines = ["link set lo up", f"link set eth0 address {hardware}"]
    lines += [f"address add {address} dev eth0", "link set eth0 up"]
    lines += [f"route add default via {gateway}"]
    place.run("ip", "-batch", "-", input="\n".join(lines) + "\n")


def vxlan(peer: Place, job: NetJob, index: int) -> str:
    """Make another node's end of a job's VXLAN, with an address; return that."""
    address = job.network.container_address(index)
    vni = job.network.vni
    lines = [f"link add vx type vxlan id {vni} dstport 289 local {peer.address} remote {NODE}"]
    lines += [f"address add {address} dev vx", "link set vx mtu 1450 up"]
    peer.run("ip", "-batch", "-", input="\n".join(lines) + "\n")
    return str(address.ip)


def settle(seconds: float = 0.5) -> None:
    """Give packets that should not arrive the time to."""
    time.sleep(seconds)


@contextmanager
def lan() -> Iterator[Lan]:
    """Yield a node and its surroundings; they are gone in the end."""
    with ExitStack() as stack:
        yield Lan(stack)
