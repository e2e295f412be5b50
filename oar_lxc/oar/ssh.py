"""Let user ``oar`` run ``oar-lxc-node`` as root, with oardodo; on other nodes with OAR's ssh."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress

from oar_lxc.linux.regular import read_regular
from oar_lxc.oar.paths import CONF, SSHD_PORT

DEFAULT_SSH = ["/usr/bin/ssh", "-p", str(SSHD_PORT), "-e", "none"]
NODE_COMMAND = "/usr/sbin/oar-lxc-node"
FANOUT = 64


def command_on(node: str, arguments: Sequence[str], *, here: bool = True) -> list[str]:
    """Return the command that runs ``oar-lxc-node`` on a node, for user ``oar``.

    On a node without oar-lxc the command does nothing and succeeds, as the node is not broken.

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
    """Return OAR's ssh command (OPENSSH_CMD), with options that forbid questions.

    If oar.conf has no valid command, it is OAR's default.
    """
    command = []
    with suppress(OSError, ValueError):
        text = os.fsdecode(read_regular(CONF, follow=True))
        if match := re.search(r'^OPENSSH_CMD="(.*)"', text, re.MULTILINE):
            command = shlex.split(match[1])
    return [*(command or DEFAULT_SSH), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
