"""How ``oar`` reaches the root side of a node: oardodo, behind OAR's own ssh on other nodes."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.linux.regular import read_regular

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


def this_node() -> str:
    """Return this machine's own name."""
    return socket.gethostname()


def _is_here(node: str) -> bool:
    host = this_node()
    return node == host or node.partition(".")[0] == host


def ssh() -> list[str]:
    """Return OAR's ssh command (OPENSSH_CMD), without questions to anyone.

    Where oar.conf does not tell it, or what it tells is no command, it is the one that OAR takes.
    """
    command = []
    with suppress(OSError, ValueError):
        text = os.fsdecode(read_regular(OAR_CONF, follow=True))
        if match := re.search(r'^OPENSSH_CMD="(.*)"', text, re.MULTILINE):
            command = shlex.split(match[1])
    return [*(command or SSH), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
