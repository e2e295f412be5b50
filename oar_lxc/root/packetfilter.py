"""The packet filter for containers: two nft tables of the node, with elements for each job.

The rules are the same for all jobs. Each job adds elements to the table's sets. An element has the
name of the job's bridge or its VXLAN identifier, so it can be found without a record. If a rule
finds no element, it drops the packet, so no packet reaches a job without elements.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from oar_lxc.errors import CommandError, TooLateError
from oar_lxc.linux.run import Result, run
from oar_lxc.model.addresses import VXLAN_PORT, JobNetwork
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.account import UNKNOWN, find_uid
from oar_lxc.root.bridge import NET, flooded
from oar_lxc.root.files import filter_locked
from oar_lxc.root.record import read_record
from oar_lxc.root.user_database import hide_users

TABLE = "oar_lxc"
PORTS = "oar_lxc_ports"  # the table that chooses ports; apart, as its set may be long to list
OLD_VXLAN_PORT = 4789  # for jobs that an older version prepared

# Containers' connections leave the node from these ports. The kernel never chooses them for the
# node's programs, so a packet to one of them is an answer to a container.
FIRST_PORT, LAST_PORT = 61000, 65535
ERRORS = "destination-unreachable, source-quench, redirect, time-exceeded, parameter-problem"
ANSWERS = "echo-reply, destination-unreachable, time-exceeded, parameter-problem"
# Most connections of a job's containers to the outside at once. The node's table has 262,144 by
# default, and counting the connections at each new one takes longer, the more there are.
CONNECTIONS = 4096
# A port serves one connection to each port of each other machine. So that no user takes all that
# lead to one, the last ports are kept for the first connections of each job to it.
FEW_PORTS = 1024
FEW = 64
USERS = 1000  # lower ids are the system's daemons

IP_TABLES = (Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names"))
_BRIDGE = re.compile(r"olb([1-9][0-9]{0,9})")
_TRACKS = re.compile(r"\b(ct|masquerade|[sd]nat|redirect|notrack|synproxy|xt)\b")


def rules_text(pool: IPv4Network) -> str:
    """Return the rules; nft applies them in one transaction, which keeps the elements.

    Args:
        pool: the network that holds the jobs' subnets.
    """
    vxlan = f"udp dport {{ {VXLAN_PORT}, {OLD_VXLAN_PORT} }}"
    leaving = 'iifname "olb*" oifname != "olb*"'
    ports = f"{FIRST_PORT}-{LAST_PORT}"
    last = LAST_PORT - FEW_PORTS
    out = f"ip saddr {pool} ip daddr != {pool}"
    new = f"ct state new add @connections {{ iifname ct count over {CONNECTIONS} }} drop"
    # An error message that quotes a packet to somewhere else than a container, at the place of the
    # quoted packet's target. It would tell a machine of a narrow path, for all its programs.
    mask, network = int(pool.netmask), int(pool.network_address)
    forged = f"icmp type {{ {ERRORS} }} @th,192,32 & {mask:#x} != {network:#x}"
    inward = 'iifname != "olb*" iifname != "lo"'
    return f"""\
table inet {TABLE} {{
    # Bridge and the user who may open connections to what is behind it.
    set owners {{ type ifname . uid; }}
    # Address of a node and identifier of a VXLAN that it is part of, as it is in packets.
    set peers {{ typeof ip saddr . @th,96,32; }}
    set connections {{ type ifname; size 65535; flags dynamic; }}
}}
table inet {PORTS} {{
    # Bridge, other machine and its port; an element goes with its last connection.
    set crowds {{ type ifname . ipv4_addr . inet_service; size 65535; flags dynamic; }}
}}
flush table inet {TABLE}
flush table inet {PORTS}
table inet {TABLE} {{
    # Filled with "notrack" where nobody else on the node wants connections tracked: whoever can
    # fill the table of connections would cut off the node.
    chain others {{
    }}
    chain track_in {{
        type filter hook prerouting priority raw; policy accept;
        # Between containers of one job; seen here where br_netfilter is loaded.
        iifname "olb*" ip daddr {pool} fib daddr type != local notrack return
        iifname "olb*" return
        udp dport {VXLAN_PORT} notrack return
        iifname "lo" jump others
        ip daddr {pool} return
        meta l4proto {{ tcp, udp, sctp }} th dport {ports} return
        icmp type {{ {ANSWERS} }} return
        jump others
    }}
    chain track_out {{
        type filter hook output priority raw; policy accept;
        udp dport {VXLAN_PORT} notrack return
        oifname "olb*" return
        jump others
    }}
    chain count {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "olb*" {new}
        # Of packets that may be answers to containers, those that are not.
        {inward} ip daddr {pool} {new}
        {inward} meta l4proto {{ tcp, udp, sctp }} th dport {ports} {new}
    }}
    chain count_out {{
        type filter hook output priority 10; policy accept;
        oifname "olb*" {new.replace("iifname", "oifname")}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        # Containers speak IPv6 with each other, never with the node: it would take its routes
        # from their router advertisements.
        iifname "olb*" meta nfproto ipv6 drop
        iifname "olb*" fib saddr . iif oif missing drop
        iifname "olb*" {vxlan} drop
        iifname "olb*" {forged} drop
        udp dport {VXLAN_PORT} ip saddr . @th,96,32 @peers accept
        udp dport {VXLAN_PORT} drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        {leaving} meta nfproto ipv6 drop
        {leaving} fib saddr . iif oif missing drop
        # To containers of other jobs, from whatever address: a machine's, such as their name
        # server's, has a route. Within a job, packets are seen here where br_netfilter is loaded.
        iifname "olb*" ip daddr {pool} fib daddr . iif oif missing drop
        {leaving} {vxlan} drop
        # What leaves unchanged would pass for the node's own.
        {leaving} meta l4proto != {{ tcp, udp, sctp, icmp }} drop
        {leaving} ct state invalid drop
        {leaving} {forged} drop
        oifname "olb*" iifname != "olb*" ct state != {{ established, related }} drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        meta skuid != 0 {vxlan} drop
        oifname . meta skuid @owners accept
        oifname "olb*" meta skuid != 0 ct state != {{ established, related }} drop
        # Another user's program that listens at the gateway's address.
        oifname "olb*" meta skuid >= {USERS} ip saddr {pool} drop
    }}
}}
table inet {PORTS} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        # A port that a container chose would make it the node: to NFS by a privileged one, to
        # another machine's answers by that of a service of the node.
        {out} meta l4proto {{ tcp, udp, sctp }} \
add @crowds {{ iifname . ip daddr . th dport ct count over {FEW} }} \
masquerade to :{FIRST_PORT}-{last} random
        {out} meta l4proto {{ tcp, udp, sctp }} masquerade to :{last + 1}-{LAST_PORT} random
        {out} masquerade
    }}
}}
"""


def load(pool: IPv4Network, timeout: float) -> None:
    """Load the rules with the elements of all jobs that have devices here, in one transaction.

    Args:
        pool: the network that holds the jobs' subnets.
        timeout: seconds for each step that may block.

    Raises:
        OarLxcError: nft failed, or the filter stayed locked.
    """
    with filter_locked(timeout):
        lines = [rules_text(pool)]
        if not _others_track(timeout):
            lines.append(f"add rule inet {TABLE} others notrack")
        lines += [f"flush set inet {TABLE} owners", f"flush set inet {TABLE} peers"]
        there = set(_jobs_of_devices())
        for layout in map(JobLayout, sorted(there)):
            lines += _elements(layout, _uid(layout), flooded(layout, timeout))
        _nft(["-f", "-"], "\n".join(lines) + "\n", timeout)
    # The destroy of a job that has ended meanwhile may have looked for its elements before.
    for job in sorted(there - set(_jobs_of_devices())):
        forget(JobLayout(job), timeout)


def admit(
    layout: JobLayout, uid: int, peers: Sequence[str], pool: IPv4Network, timeout: float
) -> None:
    """Let a job's user reach its containers, and its other nodes reach its VXLAN.

    The job's devices exist already, so a process that loads the rules meanwhile adds its elements.

    Args:
        layout: the job's names.
        uid: its user.
        peers: addresses of its other nodes.
        pool: the network that holds the jobs' subnets.
        timeout: seconds for each step that may block.

    Raises:
        OarLxcError: nft failed, or the filter stayed locked.
    """
    text = "\n".join(_elements(layout, uid, peers)) + "\n"
    with filter_locked(timeout):
        done = _nft(["-f", "-"], text, timeout, check=False)
    if done.status != 0:  # the node's rules were flushed, or these were never loaded
        load(pool, timeout)
        _nft(["-f", "-"], text, timeout)


def revoke(layout: JobLayout, uid: int, timeout: float) -> None:
    """Remove what nearly each job has: an element for its user, and one for its connections.

    It needs no search, and may run while the job's devices still exist. A packet may then add the
    element for connections again, which :func:`forget` finds.

    Args:
        layout: the job's names.
        uid: its user.
        timeout: seconds for each step that may block.
    """
    usual = [("owners", f'"{layout.bridge}" . {uid}'), ("connections", f'"{layout.bridge}"')]
    _delete(usual, timeout)


def forget(layout: JobLayout, timeout: float) -> bool:
    """Search for a job's elements, and remove them; "already gone" is success.

    Args:
        layout: the job's names.
        timeout: seconds for each step that may block.

    Returns:
        Whether the search found no element; otherwise :func:`elements` tells what is left.

    Raises:
        CommandError: nft failed.
    """
    found = list(_listed(layout, timeout))
    if found:
        _delete(found, timeout)
    return not found


def _delete(keys: Sequence[tuple[str, str]], timeout: float) -> None:
    """Delete elements, by set and key, at once: the kernel waits long after each transaction."""
    # If one is gone, as those of "connections" expire, nft deletes none. So each is added first.
    lines = (
        f"{verb} element inet {TABLE} {set_name} {{ {key} }}"
        for set_name, key in keys
        for verb in ("add", "delete")
    )
    _nft(["-f", "-"], "\n".join(lines) + "\n", timeout, check=False)


def elements(layout: JobLayout, timeout: float) -> list[str]:
    """Return a job's existing elements, each with the name of its set.

    Raises:
        CommandError: nft failed.
    """
    return [f"nft {set_name} {element}" for set_name, element in _listed(layout, timeout)]


def jobs(timeout: float) -> set[int]:
    """Return the jobs that have elements.

    Raises:
        CommandError: nft failed.
    """
    names = (key[0] for set_name, key in _all(timeout) if set_name != "peers")
    return {int(found[1]) for name in names if (found := _BRIDGE.fullmatch(name))}


def others_tracking(listing: str) -> bool:
    """Return whether other tables of the node need connection tracking.

    Args:
        listing: the output of ``nft list ruleset``.
    """
    tables = re.split(r"^(?=table )", listing, flags=re.MULTILINE)
    ours = tuple(f"table inet {name} " for name in (TABLE, PORTS))
    return any(_TRACKS.search(table) for table in tables if not table.startswith(ours))


def _others_track(timeout: float) -> bool:
    for path in IP_TABLES:
        with suppress(OSError):
            if path.read_text().strip():
                return True
    return others_tracking(_nft(["list", "ruleset"], "", timeout).stdout)


def _elements(layout: JobLayout, uid: int | None, peers: Sequence[str]) -> list[str]:
    lines = []
    if uid is not None:
        lines.append(f'add element inet {TABLE} owners {{ "{layout.bridge}" . {uid} }}')
    lines += [f"add element inet {TABLE} peers {{ {peer} . {_vni(layout)} }}" for peer in peers]
    return lines


def _vni(layout: JobLayout) -> int:
    """Return a job's VXLAN identifier as the four bytes in a packet, of which the last is 0."""
    return JobNetwork(layout.job_id, ()).vni << 8


def _uid(layout: JobLayout) -> int | None:
    record = read_record(layout.record)
    with suppress(TooLateError):
        uid = find_uid(record.user) if record else UNKNOWN
        return None if uid == UNKNOWN else uid
    return None


def _jobs_of_devices() -> Iterator[int]:
    for name in os.listdir(NET):
        if match := _BRIDGE.fullmatch(name):
            yield int(match[1])


def _listed(layout: JobLayout, timeout: float) -> Iterator[tuple[str, str]]:
    """Yield set and key of each of a job's elements."""
    bridge, vni = layout.bridge, _vni(layout)
    for set_name, key in _all(timeout):
        if set_name == "owners" and key[0] == bridge:
            yield set_name, f'"{bridge}" . {key[1]}'
        elif set_name == "connections" and key[0] == bridge:
            yield set_name, f'"{bridge}"'
        elif set_name == "peers" and key[1] == vni:
            yield set_name, f"{key[0]} . {vni}"


def _nft(arguments: Sequence[str], text: str, timeout: float, *, check: bool = True) -> Result:
    # A listing has no words to look up, and without a preexec function nft starts faster.
    first = None if "list" in arguments else hide_users
    return run(["nft", *arguments], input=text, timeout=timeout, check=check, first=first)


def _all(timeout: float) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of the set and the parts of the key of each element of the table."""
    try:
        done = _nft(["-n", "-j", "list", "table", "inet", TABLE], "", timeout)
    except CommandError as error:
        if "No such file or directory" in error.stderr:
            return  # there is no table, or no nft that could have made one
        raise
    for item in json.loads(done.stdout)["nftables"]:
        for element in item.get("set", {}).get("elem", ()):
            value = element
            if isinstance(value, dict) and "elem" in value:  # with the number of connections
                value = value["elem"]["val"]
            yield item["set"]["name"], value["concat"] if isinstance(value, dict) else [value]
