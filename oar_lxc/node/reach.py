"""How ``oar`` reaches the root side of a node: oardodo, behind OAR's own ssh on other nodes."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

OAR_CONF = Path("/etc/oar/oar.conf")
SSH = ["/usr/bin/ssh", "-p", "6667", "-e", "none"]
NODE_COMMAND = "/usr/sbin/oar-lxc-node"
FANOUT = 64


def command_on(node: str, arguments: Sequence[str], *, here: bool = True) -> list[str]:
    """Return the command that runs ``oar-lxc-node`` on a node, for user ``oar``.

    A node without oar-lxc is no broken node: there, the command does nothing.

    Args:
        node: the node's name in OAR.
        arguments: arguments of ``oar-lxc-node``.
        here: whether this machine may be the node.
    """
    line = f"[ ! -x {NODE_COMMAND} ] || {shlex.join(['oardodo', NODE_COMMAND, *arguments])}"
    return ["sh", "-c", line] if here and _is_here(node) else [*ssh(), node, line]


def _is_here(node: str) -> bool:
    host = socket.gethostname()
    return node == host or node.partition(".")[0] == host


def ssh() -> list[str]:
    """Return OAR's ssh command (OPENSSH_CMD), without questions to anyone."""
    try:
        match = re.search(r'^OPENSSH_CMD="(.*)"', OAR_CONF.read_text(), re.MULTILINE)
    except OSError:
        match = None
    command = shlex.split(match[1]) if match else SSH
    return [*command, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
