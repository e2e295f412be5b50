"""What a node does to packets of containers: forwarding, isolation of jobs, the way out."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from oar_lxc.config import read_config
from oar_lxc.setup import files, services
from oar_lxc.setup.plan import Step

TABLE = "oar_lxc"
RULES = Path("/etc/oar-lxc/nftables.nft")
SYSCTL = Path("/etc/sysctl.d/60-oar-lxc.conf")
UNIT = "oar-lxc-network.service"

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


def steps() -> list[Step]:
    """Make the steps after which containers of a job reach each other, and the world."""
    return [
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
