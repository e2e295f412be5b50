"""The name servers of this machine, as far as another network namespace reaches them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

# Where the programs that answer on the loopback themselves keep the servers that they ask:
# systemd-resolved, NetworkManager, resolvconf with dnsmasq.
SOURCES = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/etc/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    Path("/run/dnsmasq/resolv.conf"),
)


def resolver_text(named: Sequence[str] = (), sources: Iterable[Path] = SOURCES) -> str:
    """Return the text of a resolv.conf(5) for a container or a machine in one.

    Args:
        named: addresses of the name servers, where the administrator names them.
        sources: files of this machine that may tell them; the first does that names one which is
            not on the loopback.

    Returns:
        The text; where no server can be reached, a comment that says so and what to do.
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
    """Return the addresses of a resolv.conf that can be reached from elsewhere."""
    words = [line.split() for line in text.splitlines() if _word(line) == "nameserver"]
    return [line[1] for line in words if len(line) > 1 and _is_reachable(line[1])]


def _word(line: str) -> str:
    return (line.split() or [""])[0] if line[:1] not in "#;" else ""


def _is_reachable(text: str) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    elsewhere = address.version == 6 and address.is_link_local  # of a link that is not there
    return not (address.is_loopback or address.is_unspecified or elsewhere)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
