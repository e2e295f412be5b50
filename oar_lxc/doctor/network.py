"""Whether a machine's network carries what jobs need: names, packets of full size, the filter."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from oar_lxc.doctor.findings import (
    AS_ROOT,
    Finding,
    Machine,
    Outcome,
    Role,
    problem,
    unknown,
    warning,
    well,
)
from oar_lxc.doctor.parallel import in_parallel
from oar_lxc.errors import ConfigError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.process import pids
from oar_lxc.linux.resolver import resolver_text
from oar_lxc.linux.run import run
from oar_lxc.model.addresses import MTU, VXLAN_PORT
from oar_lxc.model.config import Config, read_config
from oar_lxc.model.layout import CONFIG
from oar_lxc.root import packetfilter
from oar_lxc.setup import ids, network

FULL, SMALL = 1500, 100  # bytes of an IPv4 packet
NEXT = 16  # nodes that each node sends packets to
_HEADERS = 28  # bytes of IPv4 and UDP
_CLOSED = 9  # port of the service discard, which no machine has any more
_TRIES = 3
PATIENCE = 20.0  # seconds for a look at all processes
_ANSWER = 1.0  # seconds
_IP_MTU_DISCOVER, _ALWAYS_WHOLE = 10, 3  # of linux/in.h: IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
_HOLDS = re.compile(r"socket:\[([0-9]+)\]")


def names(machine: Machine) -> Iterator[Finding]:
    """Look whether the names of the server and of the nodes resolve here."""
    server = (machine.conf.get("SERVER_HOSTNAME") or "") if machine.conf else ""
    wanted = [server] if server and machine.role is not Role.SERVER else []
    if machine.conf is None:
        yield unknown("oar.conf, which names the server, cannot be read", AS_ROOT)
    for name in dict.fromkeys((*wanted, *machine.peers)):
        yield judge_name(name, resolve(name), is_own(name))
    if machine.role is Role.SERVER and not machine.peers:
        yield unknown("OAR does not say which nodes there are", "oarnodes -l")


def resolve(name: str) -> str:
    """Return the IPv4 address of a name; empty if it has none."""
    with suppress(OSError):
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0])
    return ""


def judge_name(name: str, address: str, own: bool) -> Finding:
    """Return the finding for a name.

    Args:
        name: the name of a machine.
        address: what it resolves to here; empty for nothing.
        own: whether it is this machine's, which may be on the loopback, as Debian has it.
    """
    mend = f"echo 'ADDRESS {name}' >>/etc/hosts    # or in DNS"
    if not address:
        meaning = "OAR does not reach that machine from here, and jobs on it fail."
        return problem(f"the name {name} does not resolve here", meaning, mend)
    if ip_address(address).is_loopback and not own:
        meaning = "What is meant for that machine does not leave this one."
        said = f"the name {name} resolves to {address} here, an address of this machine itself"
        return problem(said, meaning, mend)
    return well(f"the name {name} resolves to {address}")


def packets(machine: Machine) -> Iterator[Finding]:
    """Look whether packets of full size reach the next nodes."""
    peers = next_of(machine.peers)
    yield from in_parallel(_try_packets, peers)
    if not peers:
        yield well("there is no other node")


def next_of(peers: Sequence[str]) -> list[str]:
    """Return some nodes that follow this one; so all pairs of few nodes, and few of very many."""
    own = next((number for number, name in enumerate(peers) if is_own(name)), None)
    ring = [*peers[own + 1 :], *peers[:own]] if own is not None else list(peers)
    return ring[:NEXT]


def is_own(name: str) -> bool:
    """Whether a name in OAR is this machine's."""
    host = socket.gethostname()
    return host in (name, name.partition(".")[0])


def _try_packets(peer: str) -> Finding:
    if address := resolve(peer):
        return judge_packets(peer, arrives(address, FULL), arrives(address, SMALL))
    return unknown(f"the name {peer} does not resolve here", f"getent hosts {peer}")


def arrives(address: str, size: int) -> bool | None:
    """Send a packet that may not be cut to a closed port, and wait for the refusal.

    Args:
        address: the machine's.
        size: bytes of the packet.

    Returns:
        Whether it arrived; None if it was sent and nothing came back.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _ALWAYS_WHOLE)
        try:
            sender.connect((address, _CLOSED))
            for _ in range(_TRIES):
                sender.send(bytes(size - _HEADERS))
                if select.select([sender], [], [], _ANSWER)[0]:
                    sender.recv(1)
                    return True
        except ConnectionRefusedError:
            return True
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return False
            return None
    return None


def judge_packets(peer: str, full: bool | None, small: bool | None) -> Finding:
    """Return the finding for the way to a node, by what :func:`arrives` says of two sizes."""
    if full:
        return well(f"packets of {FULL} bytes reach {peer}")
    if full is False or small:
        return problem(
            f"packets of {FULL} bytes do not reach {peer}, smaller ones do",
            f"Containers on these nodes send packets of {MTU} bytes, which VXLAN makes "
            f"{FULL}: their connections hang.",
            f"ip link set dev DEVICE mtu {FULL}    # here, there and on the way; see "
            f"ip route get {peer}",
        )
    said = f"{peer} does not say whether it got a packet, as where ICMP is dropped"
    return unknown(said, f"ping -M do -s {FULL - _HEADERS} {peer}")


def vxlan_port(machine: Machine) -> Iterator[Finding]:
    """Look whether another program holds the UDP port that joins a job's nodes."""
    inodes = {
        words[9]
        for name in ("udp", "udp6")
        for line in _lines(Path("/proc/net") / name)[1:]
        if int((words := line.split())[1].rpartition(":")[2], 16) == VXLAN_PORT
    }
    if not inodes:
        yield well(f"no program holds UDP port {VXLAN_PORT}")
    elif not machine.root:
        said = f"UDP port {VXLAN_PORT} is in use; only root can see whether by a job or a program"
        yield unknown(said, AS_ROOT)
    # A process in execve(2) can make who looks at its files wait, for as long as its user wants.
    elif holders := bounded(lambda: _holders(inodes), PATIENCE, "looking who holds the port"):
        yield problem(
            f"process {holders[0]} holds UDP port {VXLAN_PORT}",
            "It joins the networks of a job's nodes: jobs of several nodes are refused here.",
            f"kill {holders[0]}    # or let it use another port",
        )
    else:
        yield well(f"UDP port {VXLAN_PORT} is held by jobs alone")


def _holders(inodes: set[str]) -> list[str]:
    """Return a process that has one of some sockets open; none for the kernel's own."""
    for pid in pids():
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    found = _HOLDS.fullmatch(os.readlink(f"/proc/{pid}/fd/{fd}"))
                    if found and found[1] in inodes:
                        return [str(pid)]
    return []


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def forwarding(machine: Machine) -> Iterator[Finding]:
    """Look whether the packet filter and the routing rules of jobs are in the kernel."""
    meaning = "Containers do not reach the world, or are not kept apart from other jobs."
    mend = f"systemctl restart {network.UNIT}"
    on = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    if on == "1":
        yield well("this node forwards packets")
    else:
        yield problem(f"net.ipv4.ip_forward is {on}", meaning, mend)
    shown = json.loads(run(["ip", "-json", "rule", "show"]).stdout or "[]")
    lacking = {network.OWN, network.OTHERS} - {rule["priority"] for rule in shown}
    if lacking:
        numbers = " and ".join(map(str, sorted(lacking)))
        yield problem(f"the routing rules of jobs ({numbers}) are not there", meaning, mend)
    else:
        yield well("the routing rules of jobs are there")
    if not machine.root:
        yield unknown("only root can see the packet filter", AS_ROOT)
        return
    for table in (packetfilter.TABLE, packetfilter.PORTS):
        if run(["nft", "list", "table", "inet", table], check=False).status:
            yield problem(f"the packet filter has no table inet {table}", meaning, mend)
        else:
            yield well(f"the packet filter has the table inet {table}")


def firewall(machine: Machine) -> Iterator[Finding]:
    """Look whether the node's own firewall drops what containers send."""
    if not machine.root:
        yield unknown("only root can see the node's own firewall", AS_ROOT)
        return
    yield judge_firewall(run(["nft", "list", "ruleset"]).stdout)


def judge_firewall(ruleset: str) -> Finding:
    """Return the finding for the rules that ``nft list ruleset`` prints."""
    for table in re.split(r"^(?=table )", ruleset, flags=re.MULTILINE):
        family, name = (table.split() + [""] * 3)[1:3]
        for chain in re.findall(r"^\tchain \S+ \{\n(?:\t\t.*\n|\n)*", table, re.MULTILINE):
            if "hook forward" in chain and "policy drop" in chain and "olb" not in chain:
                title = chain.split()[1]
                rules = [
                    f"nft insert rule {family} {name} {title} {way} '\"olb*\"' accept"
                    for way in ("iifname", "oifname")
                ]
                return warning(
                    f"chain {title} of table {family} {name} drops forwarded packets, and names "
                    "no device of a job",
                    "Containers reach the world only if another rule of it lets them.",
                    " && ".join(rules),
                )
    return well("no firewall of the node drops containers' packets")


def name_servers(machine: Machine) -> Iterator[Finding]:
    """Look whether containers are told a name server that they can reach."""
    try:
        config = read_config()
    except ConfigError:  # a check of its own
        config = Config()
    yield judge_resolver(resolver_text(config.nameservers))


def judge_resolver(text: str) -> Finding:
    """Return the finding for the resolv.conf(5) that containers are given."""
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if servers:
        return well(f"containers are told the name servers {', '.join(servers)}")
    return problem(
        "this node names no name server that containers can reach",
        "Containers do not resolve names of the world.",
        f'editor {CONFIG}    # nameservers = ["ADDRESS"] in [network]',
    )


def neighbours(machine: Machine) -> Iterator[Finding]:
    """Look whether the kernel's table of neighbours is seen here; a unit enlarges it."""
    notes = network.notes()
    for note in notes:
        command = note[note.index("`") + 1 : note.rindex("`")]
        yield Finding(
            Outcome.UNKNOWN,
            note.partition(". ")[0],
            "By default it takes 1,024, too few where very many containers all talk.",
            f"{command}    # on the host of this container",
        )
    if not notes:
        yield well("the table of neighbours is this node's own")


def container_ids(machine: Machine) -> Iterator[Finding]:
    """Look whether something else has ids that are for containers."""
    notes = ids.notes()
    for note in notes:
        path = note.split()[0].rstrip(":")
        yield warning(
            note, "Jobs and what else has these ids can harm each other.", f"editor {path}"
        )
    if not notes:
        yield well("nothing else has ids of containers")


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine, without those of jobs and of the loopback."""
    shown = json.loads(run(["ip", "-json", "-4", "address", "show"]).stdout or "[]")
    return [
        info["local"]
        for link in shown
        for info in link.get("addr_info", ())
        if link["ifname"] != "lo" and not link["ifname"].startswith("olb")
    ]
