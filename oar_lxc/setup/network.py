"""What a node does to packets of containers: forwarding, isolation of jobs, the way out."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from oar_lxc.config import read_config
from oar_lxc.layout import CONFIG
from oar_lxc.node.links import VXLAN_PORT
from oar_lxc.run import run
from oar_lxc.setup import files, services
from oar_lxc.setup.plan import Step

TABLE = "oar_lxc"
RULES = Path("/etc/oar-lxc/nftables.nft")
SYSCTL = Path("/etc/sysctl.d/60-oar-lxc.conf")
UNIT = "oar-lxc-network.service"
RESOLVER = Path("/etc/resolv.conf")

# Priorities of our routing rules: before those of the main table.
OWN = 30000
OTHERS = 30001


def rules_text(pool: IPv4Network) -> str:
    """Return the packet filter's rules; nft applies a file as one transaction."""
    return f"""\
# Made by oar-lxc setup node.
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    # Containers have their own addresses only, and nobody but root joins a VXLAN.
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "olb*" ip saddr != {pool} drop
        iifname "olb*" udp dport {VXLAN_PORT} drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "olb*" udp dport {VXLAN_PORT} drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        meta skuid != 0 udp dport {VXLAN_PORT} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {pool} ip daddr != {pool} masquerade
    }}
}}
"""


def unit_text(pool: IPv4Network) -> str:
    """Return the unit that loads the rules and keeps jobs' networks apart.

    Containers of one job are bridged. What is routed from pool to pool, but for what the node
    itself sends, is from job to job. Routing rules say so and not the packet filter, as that sees
    bridged packets too where br_netfilter is loaded, and cannot tell them apart.
    """
    pair = f"from {pool} to {pool}"
    return f"""\
[Unit]
Description=Networks of OAR jobs' containers
After=network-pre.target nftables.service
Before=oar-node.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {RULES}
ExecStart=/usr/sbin/sysctl -q -p {SYSCTL}
ExecStart=-/usr/sbin/ip rule del priority {OWN}
ExecStart=-/usr/sbin/ip rule del priority {OTHERS}
ExecStart=/usr/sbin/ip rule add priority {OWN} {pair} iif lo lookup main
ExecStart=/usr/sbin/ip rule add priority {OTHERS} {pair} prohibit
ExecStop=-/usr/sbin/ip rule del priority {OTHERS}
ExecStop=-/usr/sbin/ip rule del priority {OWN}
ExecStop=/usr/sbin/nft delete table inet {TABLE}

[Install]
WantedBy=multi-user.target
"""


def conflicts(pool: IPv4Network) -> list[str]:
    """Return what on this machine lies in the pool although it belongs to no job."""
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
    """Make the step that wants nothing else in the network of jobs."""

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


def steps() -> list[Step]:
    """Make the steps after which containers of a job reach each other, and the world."""
    return [
        pool_is_free(),
        files.own_file("packets are forwarded", SYSCTL, "net.ipv4.ip_forward = 1\n"),
        files.own_file(
            "containers reach the world", RULES, lambda: rules_text(read_config().pool)
        ),
        services.with_reload(
            files.own_file(
                "a unit loads this, and keeps jobs' networks apart",
                services.UNITS / UNIT,
                lambda: unit_text(read_config().pool),
            )
        ),
        services.running(UNIT, reads=lambda: [RULES, SYSCTL, services.UNITS / UNIT]),
    ]
