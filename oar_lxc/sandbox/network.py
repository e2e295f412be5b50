"""Make and remove the sandbox's network on the host: a bridge, and a way out for apt."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from oar_lxc.linux.run import run
from oar_lxc.model.addresses import POOL
from oar_lxc.sandbox.state import SandboxError, State

CANDIDATES = [IPv4Network((f"10.{second}.0.0", 24)) for second in (77, 78, 79, 93, 94, 95, 107)]
FIRST_NODE = 11

_FORWARDING = Path("/proc/sys/net/ipv4/conf")


@dataclass(frozen=True)
class Addresses:
    """The addresses of the sandbox's machines."""

    network: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The host's address on the bridge."""
        return self.network[1]

    def of(self, machine: str) -> IPv4Address:
        """Return a machine's address."""
        fixed = {"server": 2, "frontend": 3}
        offset = fixed.get(machine) or FIRST_NODE - 1 + int(machine.removeprefix("node"))
        return self.network[offset]

    def hosts(self, machines: list[str]) -> str:
        """Return the text of /etc/hosts for all machines."""
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        lines += [f"{self.of(machine)} {machine}" for machine in machines]
        return "\n".join(lines) + "\n"


def addresses(state: State) -> Addresses:
    """Return the addresses of the sandbox; the first call chooses a network that is free here.

    Raises:
        SandboxError: no network is free.
    """
    known = state.read("network")
    if isinstance(known, str):
        return Addresses(IPv4Network(known))
    used = _routed_networks()
    for candidate in CANDIDATES:
        if not candidate.overlaps(POOL) and not any(candidate.overlaps(net) for net in used):
            state.write("network", str(candidate))
            return Addresses(candidate)
    raise SandboxError("every network that a sandbox may use is routed on this machine already")


def up(state: State, where: Addresses) -> None:
    """Make the bridge and the way out: address translation and forwarding."""
    bridge = state.tag
    if run(["ip", "link", "show", bridge], check=False).status != 0:
        # The bridge is new, so the saved settings are from before a reboot.
        state.write("forwarding", {})
        run(["ip", "link", "add", bridge, "type", "bridge"])
    address = f"{where.gateway}/{where.network.prefixlen}"
    run(["ip", "address", "replace", address, "dev", bridge])
    run(["ip", "link", "set", bridge, "up"])
    run(["nft", "-f", "-"], input=_rules(bridge, where.network))
    _forward(state, [bridge, *_uplinks()])


def down(state: State) -> None:
    """Remove the bridge and the way out, and restore the settings of forwarding."""
    run(["nft", "delete", "table", "ip", state.tag], check=False)
    run(["ip", "link", "delete", state.tag], check=False)
    before = state.read("forwarding")
    for name, value in before.items() if isinstance(before, dict) else ():
        path = _FORWARDING / name / "forwarding"
        if path.exists():
            path.write_text(value)


def leftovers(state: State) -> list[str]:
    """Return the parts of the sandbox's network that are left on the host."""
    left = []
    if run(["ip", "link", "show", state.tag], check=False).status == 0:
        left.append(f"link {state.tag}")
    if run(["nft", "list", "table", "ip", state.tag], check=False).status == 0:
        left.append(f"nft table ip {state.tag}")
    return left


def _rules(tag: str, network: IPv4Network) -> str:
    return f"""
table ip {tag}
delete table ip {tag}
table ip {tag} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} oifname != "{tag}" masquerade
    }}
}}
"""


def _forward(state: State, interfaces: list[str]) -> None:
    """Turn on forwarding on these interfaces, and save their settings from before."""
    known = state.read("forwarding")
    before: dict[str, str] = dict(known) if isinstance(known, dict) else {}
    for name in interfaces:
        path = _FORWARDING / name / "forwarding"
        value = path.read_text().strip()
        if value != "1":
            if name != state.tag:
                before.setdefault(name, value)
                state.write("forwarding", before)
            path.write_text("1")


def _uplinks() -> list[str]:
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "default"]).stdout or "[]")
    return list(dict.fromkeys(route["dev"] for route in routes if "dev" in route))


def _routed_networks() -> list[IPv4Network]:
    networks = []
    for route in json.loads(run(["ip", "-j", "-4", "route"]).stdout or "[]"):
        if route["dst"] != "default":
            networks.append(ipaddress.IPv4Network(route["dst"], strict=False))
    return networks
