"""TCP between two containers of one node, and of two, beside plain network namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from oar_lxc.linux.run import run
from oar_lxc.model.addresses import MTU
from oar_lxc.sandbox.state import SandboxError
from tests.bench.figures import Figure
from tests.bench.ours import launch, our_job
from tests.bench.sandboxed import brought_up
from tests.bench.timing import Spread
from tests.e2e.cluster import Cluster
from tests.pretend import PYTHON, PretendJob, ordinary_user

ROW = "tcp"
IMAGE = "busybox"
FIRST_JOB = 914_000
NODES = 2
EACH = 4  # times of each in a round: one takes about a second
LONGEST = 120.0  # seconds that one of them may take
PORT = 5001
WARM_UP = 64  # MiB that are sent before the first round, and do not count
JOB = f"./jobscripts/lxc_job.py --image {IMAGE} --per-node 1 --wait running"
# The plain way: a bridge, a namespace with a veth on it, and between nodes a VXLAN.
NAME = "oarlxcbench"
SUBNET = "10.97.0"
VNI, VXLAN_PORT = 77, 4790
# "listen" takes what one peer sends; "send ADDRESS MIB" sends, and prints the seconds.
PROGRAM = f"""\
import socket, sys, time
piece = bytearray(1 << 20)
if sys.argv[1] == "listen":
    with socket.create_server(("", {PORT})) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
    with peer:
        while peer.recv_into(piece):
            pass
else:
    with socket.create_connection((sys.argv[2], {PORT}), 10) as peer:
        peer.settimeout({LONGEST})
        begin = time.monotonic()
        for _ in range(int(sys.argv[3])):
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)  # until the other side has read all, and ends
        print(time.monotonic() - begin)
"""


@dataclass(frozen=True)
class _End:
    """One end of a way.

    Attributes:
        enter: the command that runs another in its network namespace.
        address: its address.
    """

    enter: Sequence[str]
    address: str


_Way = tuple[_End, _End]


def measure(rounds: int, *, short: bool = False) -> list[Figure]:
    """Measure one node, and two in the sandbox; not these where it shall be short."""
    figures = _one_node(rounds, 256 if short else 4096)
    if short:
        return figures
    try:
        with brought_up(NODES) as cluster:
            figures += _two_nodes(cluster, rounds, 1024)
    except SandboxError as error:
        print(f"{ROW}: two nodes not measured, for {error}", file=sys.stderr)
    return figures


def _one_node(rounds: int, size: int) -> list[Figure]:
    with ordinary_user() as user, our_job(FIRST_JOB, user) as job, _plain(run, 1, 2):
        launched = launch(job, IMAGE, 2, "running")
        first, second = (
            _End(["nsenter", "-t", str(c["pid"]), "-n"], str(c["address"])) for c in _listed(job)
        )
        figures = _figures(
            "one node", (first, second), (_plain_end(1), _plain_end(2)), rounds, size
        )
        launched.end()
    return figures


def _listed(job: PretendJob) -> list[dict[str, object]]:
    done = job.run([PYTHON, "-m", "oar_lxc.cli.main", "list", "--json"], LONGEST)
    if done.status:
        raise RuntimeError(done.stderr)
    listed: list[dict[str, object]] = json.loads(done.stdout)
    return listed


def _two_nodes(cluster: Cluster, rounds: int, size: int) -> list[Figure]:
    cluster.sandbox.add_image(IMAGE)
    job = cluster.submit(JOB, f"nodes={NODES}/core=1,walltime=0:20:0")
    try:
        job.wait_output("connect from the frontend:")
        listed = json.loads(cluster.frontend("oar-lxc", "list", str(job.id), "--json").stdout)
        ours = [
            _on(cluster, c["node"], _End(["nsenter", "-t", str(c["pid"]), "-n"], c["address"]))
            for c in listed
        ]
        nodes = [c["node"] for c in listed]
        with contextlib.ExitStack() as stack:
            plain = []
            for number, node in enumerate(nodes, 1):
                machine = cluster.sandbox.machine(node)
                stack.enter_context(_plain(machine.run, number))
                other = nodes[number % NODES]
                _join(machine.run, _address(cluster, node, node), _address(cluster, node, other))
                plain.append(_on(cluster, node, _plain_end(number)))
            way, peer = (ours[0], ours[1]), (plain[0], plain[1])
            return _figures("two nodes", way, peer, rounds, size)
    finally:
        with contextlib.suppress(Exception):
            job.delete()
        job.wait_end()


def _address(cluster: Cluster, node: str, of: str) -> str:
    """Return the address of a node, as another one resolves its name."""
    return cluster.on(node, "getent", "ahostsv4", of).stdout.split()[0]


def _on(cluster: Cluster, node: str, end: _End) -> _End:
    """Return an end that is on a node, for this machine."""
    return _End(cluster.sandbox.machine(node).command(end.enter), end.address)


def _figures(what: str, ours: _Way, plain: _Way, rounds: int, size: int) -> list[Figure]:
    """Send over both ways in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for way in (ours, plain):
        _send(way, WARM_UP)
    for number in range(rounds * EACH):
        for which in (0, 1) if number % 2 else (1, 0):
            before = _cpu()
            times[which].append(_send((ours, plain)[which], size))
            cpu[which].append(_cpu() - before)
    peer = "veth on a bridge" + (", VXLAN" if "two" in what else "")
    return [
        Figure(ROW, work, "s", Spread(tuple(mine)), peer, Spread(tuple(theirs)), target)
        for work, (mine, theirs), target in (
            (f"{what}: {size} MiB over TCP", times, "ratio >= 0.95"),
            ("  CPU of both ends", cpu, ""),
        )
    ]


def _cpu() -> float:
    """Return the processor time of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _send(way: _Way, size: int) -> float:
    """Send so many MiB from the first end to the second; return the seconds."""
    sender, receiver = way
    program = ["/usr/bin/python3", "-c", PROGRAM]
    listen = [*receiver.enter, *program, "listen"]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listening:
        try:
            if not listening.stdout or listening.stdout.readline() != "ready\n":
                raise RuntimeError(f"nothing listens at {receiver.address}")
            send = [*sender.enter, *program, "send", receiver.address, str(size)]
            return float(run(send, timeout=LONGEST).stdout)
        finally:
            listening.kill()


def _plain_end(number: int) -> _End:
    return _End(["ip", "netns", "exec", f"{NAME}{number}"], f"{SUBNET}.{number}")


@contextmanager
def _plain(do: Callable[..., object], *numbers: int) -> Iterator[None]:
    """Make a bridge and namespaces with a veth on it, where ``do`` runs commands."""
    lines = [f"link add {NAME} mtu {MTU} type bridge", f"link set {NAME} up"]
    for number in numbers:
        outer, inside = f"{NAME}{number}", f"netns {NAME}{number}"
        lines += [
            f"netns add {NAME}{number}",
            f"link add {outer} mtu {MTU} type veth peer name eth0 mtu {MTU} {inside}",
            f"link set {outer} master {NAME} up",
        ]
    try:
        do(["ip", "-batch", "-"], input="\n".join(lines) + "\n")
        for number in numbers:
            inner = f"address add {SUBNET}.{number}/24 dev eth0\nlink set eth0 up\n"
            do(["ip", "-n", f"{NAME}{number}", "-batch", "-"], input=inner)
        yield
    finally:
        gone = [f"netns del {NAME}{number}" for number in numbers]
        gone += [f"link del {NAME}v", f"link del {NAME}"]
        do(["ip", "-force", "-batch", "-"], input="\n".join(gone) + "\n", check=False)


def _join(do: Callable[..., object], own: str, other: str) -> None:
    """Join the bridge to that of another machine, as a job's bridges are joined."""
    vxlan = f"{NAME}v"
    lines = [
        f"link add {vxlan} mtu {MTU} type vxlan id {VNI} dstport {VXLAN_PORT} local {own}",
        f"link set {vxlan} master {NAME} up",
    ]
    do(["ip", "-batch", "-"], input="\n".join(lines) + "\n")
    do(["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", vxlan, "dst", other])
