"""Run the commands of link emulation, in the job's network namespace on one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from oar_lxc.container.emulation import Commands
from oar_lxc.container.runtime import Runtime
from oar_lxc.errors import CommandError
from oar_lxc.model.abilities import HTB, IFB, NETEM, NUMGEN

NOT_THERE = 127  # status of a program that cannot be executed
_TRIAL = "oar_lxc_trial"  # a device and a table that go at once


class Network(Protocol):
    """A network namespace in which programs are run as root: that of a :class:`Runtime`."""

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program that reads ``text``; raise CommandError if it fails."""


def apply(runtime: Runtime, commands: Commands, losses: str) -> None:
    """Run commands in their order; packets pass by no side meanwhile.

    Args:
        runtime: the containers of the node.
        commands: what changes rates and delays.
        losses: all rules for ``nft``, which are one transaction.

    Raises:
        CommandError: the kernel refuses one.
    """
    if commands.before:
        runtime.in_network(["ip", "-batch", "-"], commands.before)
    if commands.tc:
        runtime.in_network(["tc", "-batch", "-"], commands.tc)
    runtime.in_network(["nft", "-f", "-"], losses)
    if commands.after:
        runtime.in_network(["ip", "-batch", "-"], commands.after)


def lacking(network: Network) -> tuple[str, ...]:
    """Try what the kernel of this node can do; the trial leaves nothing.

    Args:
        network: where to try it.

    Returns:
        Those of :data:`oar_lxc.model.abilities.MODULES` that it does not have.

    Raises:
        CommandError: no device at all can be made here, or a program is missing.
    """
    try:
        ifb = _can(network, ["ip", "link", "add", "name", _TRIAL, "type", "ifb"])
        if not ifb:
            network.in_network(["ip", "link", "add", "name", _TRIAL, "type", "bridge"])
        add = ["tc", "qdisc", "replace", "dev", _TRIAL, "root"]
        htb = _can(network, [*add, "handle", "1:", "htb"])
        netem = _can(network, [*add, "handle", "2:", "netem", "delay", "1ms"])
    finally:
        _can(network, ["ip", "link", "del", "dev", _TRIAL])
    rule = "numgen random mod 2 < 1 drop"
    table = f"table bridge {_TRIAL} {{\n chain loss {{\n  {rule}\n }}\n}}\n"
    numgen = _can(network, ["nft", "--check", "-f", "-"], table)
    able = {HTB: htb, NETEM: netem, NUMGEN: numgen, IFB: ifb}
    return tuple(kind for kind, can in able.items() if not can)


def _can(network: Network, argv: list[str], text: str = "") -> bool:
    try:
        network.in_network(argv, text)
    except CommandError as error:
        if error.status == NOT_THERE:
            raise  # this says nothing of the kernel
        return False
    return True
