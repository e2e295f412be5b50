"""Steps about a node's network: forward containers' packets, isolate jobs, and filter packets."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from oar_lxc.linux.run import run
from oar_lxc.model.config import read_config
from oar_lxc.model.layout import CONFIG
from oar_lxc.root import neighbours, packetfilter
from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

OLD_RULES = Path("/etc/oar-lxc/nftables.nft")  # of version 0.1.0
SYSCTL = Path("/etc/sysctl.d/60-oar-lxc.conf")
UNIT = "oar-lxc-network.service"
PORTS = Path("/proc/sys/net/ipv4")
RESOLVER = Path("/etc/resolv.conf")

# Priorities of oar-lxc's routing rules: before the rule of the main table.
OWN = 30000
OTHERS = 30001


def unit_text(pool: IPv4Network) -> str:
    """Return the unit that loads the packet filter and keeps jobs' networks apart.

    With the filter, it enlarges the kernel's table of neighbours.

    The unit restarts with the node's own packet filter, which flushes all rules. It also restarts
    if a new version has other rules, as its text contains their digest.

    Packets between containers of one job are bridged. So a packet that is routed from pool to pool
    goes from one job to another, unless the node itself sends it. Routing rules refuse it, not the
    packet filter: if br_netfilter is loaded, the filter also sees bridged packets, and cannot tell
    them from routed ones.
    """
    pair = f"from {pool} to {pool}"
    digest = hashlib.sha256(packetfilter.rules_text(pool).encode()).hexdigest()
    return f"""\
# Rules: {digest}
[Unit]
Description=Networks of OAR jobs' containers
After=network-pre.target nftables.service firewalld.service ufw.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Before=oar-node.service
# The package may be removed, and its set-up stay.
ConditionFileIsExecutable=/usr/sbin/oar-lxc-node

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/oar-lxc-node filter
ExecStart=/usr/sbin/sysctl -q -p {SYSCTL}
ExecStart=-/usr/sbin/ip rule del priority {OWN}
ExecStart=-/usr/sbin/ip rule del priority {OTHERS}
ExecStart=/usr/sbin/ip rule add priority {OWN} {pair} iif lo lookup main
ExecStart=/usr/sbin/ip rule add priority {OTHERS} {pair} prohibit
ExecReload=/usr/sbin/oar-lxc-node filter
ExecStop=-/usr/sbin/ip rule del priority {OTHERS}
ExecStop=-/usr/sbin/ip rule del priority {OWN}
ExecStop=-/usr/sbin/nft delete table inet {packetfilter.TABLE}
ExecStop=-/usr/sbin/nft delete table inet {packetfilter.PORTS}

[Install]
WantedBy=multi-user.target
"""


def conflicts(pool: IPv4Network) -> list[str]:
    """Return the addresses, routes and name servers of this machine in the pool but of no job."""
    found = []
    for link in json.loads(run(["ip", "-json", "-4", "address", "show"]).stdout or "[]"):
        for info in link.get("addr_info", ()):
            if not link["ifname"].startswith("olb") and IPv4Address(info["local"]) in pool:
                found.append(f"address {info['local']} of {link['ifname']}")
    for route in json.loads(run(["ip", "-json", "-4", "route", "show"]).stdout or "[]"):
        if route["dst"] == "default" or str(route.get("dev", "")).startswith("olb"):
            continue
        if IPv4Network(route["dst"]).overlaps(pool):
            found.append(f"route to {route['dst']}")
    for line in RESOLVER.read_text().splitlines() if RESOLVER.exists() else ():
        match = re.fullmatch(r"\s*nameserver\s+((?:[0-9]{1,3}\.){3}[0-9]{1,3})\s*", line)
        with suppress(ValueError):
            if match and IPv4Address(match[1]) in pool:
                found.append(f"name server {match[1]}")
    return found


def pool_is_free() -> Step:
    """Make the step that requires that only jobs use the pool."""

    def problem() -> str | None:
        pool = read_config().pool
        found = conflicts(pool)
        if not found:
            return None
        return (
            f"the network {pool}, from which jobs get theirs, is used for something else here "
            f"({', '.join(found)}): write another one into {CONFIG} on all nodes, as pool = "
            '"A.B.C.D/N" in the table [network]'
        )

    return Step("the network of jobs is used for nothing else", problem)


def ports_are_free(
    given: Path = PORTS / "ip_local_port_range", reserved: Path = PORTS / "ip_local_reserved_ports"
) -> Step:
    """Make the step that requires that the kernel gives containers' ports to no program."""

    def problem() -> str | None:
        first, last = packetfilter.FIRST_PORT, packetfilter.LAST_PORT
        highest = int(given.read_text().split()[1])
        kept = {
            port
            for part in reserved.read_text().strip().split(",")
            if part
            for port in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        }
        if all(port in kept for port in range(first, highest + 1)):
            return None
        return (
            f"the kernel gives ports up to {highest} to programs of this node, and from {first} "
            f"on they are those of containers: write net.ipv4.ip_local_reserved_ports = "
            f"{first}-{last} into a file in /etc/sysctl.d, or let net.ipv4.ip_local_port_range "
            f"end at {first - 1}, and run `sysctl --system`"
        )

    return Step("containers' connections have ports of their own", problem)


def no_file(title: str, path: Path) -> Step:
    """Make the step that removes a file of an earlier version."""

    def pending() -> str | None:
        return f"{path}: remove it" if path.exists() else None

    return Step(title, pending, lambda: path.unlink(missing_ok=True))


def notes(limits: Path = neighbours.LIMITS) -> list[str]:
    """Return notes on what only the host can do, if this node is a container."""
    if neighbours.shows_limits(limits):
        return []
    values = " ".join(f"net.ipv4.neigh.default.{n}={v}" for n, v in neighbours.WANTED.items())
    return [
        "this node is a container and cannot see how many neighbours its kernel takes. The 1,024 "
        "of the default are too few where very many containers all talk, or many of several "
        f"sessions of a job: on its host, run `sysctl -w {values}`, and write the same into a "
        "file in /etc/sysctl.d"
    ]


def steps() -> list[Step]:
    """Make the steps after which containers of a job reach each other and the outside."""
    return [
        pool_is_free(),
        ports_are_free(),
        files.own_file("packets are forwarded", SYSCTL, "net.ipv4.ip_forward = 1\n"),
        services.with_reload(
            files.own_file(
                "a unit loads the packet filter, and keeps jobs' networks apart",
                services.UNITS / UNIT,
                lambda: unit_text(read_config().pool),
            )
        ),
        services.running(
            UNIT,
            reads=lambda: [SYSCTL, services.UNITS / UNIT],
            answers=lambda: not neighbours.too_low(),
        ),
        no_file("rules of version 0.1.0 are not there", OLD_RULES),
    ]
