"""Find the name servers of this machine that another network namespace can reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

# systemd-resolved, NetworkManager and resolvconf with dnsmasq answer on the loopback. These files
# name the servers that they ask.
SOURCES = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/etc/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    Path("/run/dnsmasq/resolv.conf"),
)


def resolver_text(named: Sequence[str] = (), sources: Iterable[Path] = SOURCES) -> str:
    """Return the text of a resolv.conf(5) for a container or a machine in one.

    Args:
        named: addresses of the name servers that the administrator set, if any.
        sources: files of this machine that may name servers; the first file with a server that is
            not on the loopback counts.

    Returns:
        The text; if no server can be reached, with a comment that says so and what to do.
    """
    texts = [text for path in sources if (text := _read(path))]
    text = next((text for text in texts if _servers(text)), "\n".join(texts[:1]))
    servers = list(named) or _servers(text)
    others = [line for line in text.splitlines() if _word(line) not in ("nameserver", "")]
    if not servers:
        others.insert(
            0,
            "# No name server of the node can be reached from here: they are on its loopback. The "
            'administrator names one with nameservers = ["ADDRESS"] in the table [network].',
        )
    return "".join(f"{line}\n" for line in (*(f"nameserver {one}" for one in servers), *others))


def _servers(text: str) -> list[str]:
    """Return the servers of a resolv.conf that another network namespace can reach."""
    words = [line.split() for line in text.splitlines() if _word(line) == "nameserver"]
    return [line[1] for line in words if len(line) > 1 and _is_reachable(line[1])]


def _word(line: str) -> str:
    return (line.split() or [""])[0] if line[:1] not in "#;" else ""


def _is_reachable(text: str) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    elsewhere = address.version == 6 and address.is_link_local  # its link is not in the container
    return not (address.is_loopback or address.is_unspecified or elsewhere)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
