"""Read the description and the configuration in a container's directory on its node."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from oar_lxc.model.layout import CONFIG_FILE, DESCRIPTION_FILE, JobLayout
from oar_lxc.model.names import MAIN


def read_description(directory: Path) -> dict[str, Any]:
    """Return a container's part of the plan, with its session's token as ``session``.

    Args:
        directory: the container's directory; for any other directory the result is empty.
    """
    try:
        data = json.loads((directory / DESCRIPTION_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def containers_of(layout: JobLayout, session: str | None) -> list[str]:
    """Return the names of the containers that a session made; of all containers if None.

    Other files that the user keeps in the directory are ignored.

    Raises:
        OSError: the directory of containers cannot be read.
    """
    found = {name: session_of(layout.containers / name) for name in os.listdir(layout.containers)}
    return sorted(name for name, whose in found.items() if whose and session in (None, whose))


def session_of(directory: Path) -> str:
    """Return the session that made a container's directory; empty for any other directory."""
    if directory.name.startswith("."):
        return ""
    return str(read_description(directory).get("session", ""))


class Device(NamedTuple):
    """An interface of a container.

    Attributes:
        name: its name in the container.
        number: the number of its network in the job; 0 is the main network.
    """

    name: str
    number: int


def devices_of(directory: Path) -> dict[str, Device]:
    """Return a container's interfaces in their order, by the names of their networks."""
    description = read_description(directory)
    found = {MAIN: Device("eth0", 0)} if description.get("main", True) else {}
    for one in description.get("interfaces", ()):
        found[str(one["network"])] = Device(str(one["device"]), int(one["number"]))
    return found


def configured_address(layout: JobLayout, name: str) -> str:
    """Return the address in a container's configuration; empty if there is none."""
    with suppress(OSError):
        for line in (layout.containers / name / CONFIG_FILE).read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "lxc.net.0.ipv4.address":
                return value.strip().partition("/")[0]
    return ""
