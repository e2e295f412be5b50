"""What a fresh machine has of this one: how to reach the registries of packages, and no more."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

# What pip is told about the network. Anything else would make the machine less fresh.
_PIP_KEYS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)


def certificates() -> str:
    """Return the certificates of authorities that this machine trusts; empty where it has none."""
    try:
        return Path("/", CERTIFICATES).read_text()
    except FileNotFoundError:
        return ""


def pip_conf(home: Path, environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """Return the text of a pip.conf that reaches the same indexes as this machine's.

    Indexes on this machine's disk are left out: another machine has not got them.

    Args:
        home: the caller's home.
        environ: the caller's environment.
        root: where this machine's files are.
    """
    found: dict[str, str] = {}
    for path in (
        root / "etc/xdg/pip/pip.conf",
        root / "etc/pip.conf",
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
    ):
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= dict(parser.items(section))
    for key, value in environ.items():
        if key.startswith("PIP_"):
            found[key.removeprefix("PIP_").lower().replace("_", "-")] = value
    return "".join(_pip_lines(found))


def _pip_lines(found: Mapping[str, str]) -> Iterator[str]:
    yield "[global]\n"
    if "cert" in found:
        yield f"cert = /{CERTIFICATES}\n"
    for key in _PIP_KEYS:
        words = [x for x in found.get(key, "").split() if not x.startswith(("/", "file:"))]
        if words:
            yield f"{key} = {' '.join(words)}\n"


def caller_pip_conf() -> str:
    """Return what :func:`pip_conf` makes of the caller's configuration."""
    return pip_conf(Path.home(), os.environ)
