"""Run the commands of link emulation, in the job's network namespace on one node."""

from __future__ import annotations

from oar_lxc.container.emulation import Commands
from oar_lxc.container.runtime import Runtime
from oar_lxc.errors import CommandError
from oar_lxc.model.abilities import HTB, IFB, NETEM, NUMGEN

_TRIAL = "oar_lxc_trial"  # a device and a table that go at once


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


def lacking(runtime: Runtime) -> tuple[str, ...]:
    """Try what the kernel of this node can do; the trial leaves nothing.

    Returns:
        Those of :data:`oar_lxc.model.abilities.MODULES` that it does not have.

    Raises:
        CommandError: no device at all can be made here.
    """
    try:
        ifb = _can(runtime, ["ip", "link", "add", "name", _TRIAL, "type", "ifb"])
        if not ifb:
            runtime.in_network(["ip", "link", "add", "name", _TRIAL, "type", "bridge"])
        add = ["tc", "qdisc", "replace", "dev", _TRIAL, "root"]
        htb = _can(runtime, [*add, "handle", "1:", "htb"])
        netem = _can(runtime, [*add, "handle", "2:", "netem", "delay", "1ms"])
    finally:
        _can(runtime, ["ip", "link", "del", "dev", _TRIAL])
    rule = "numgen random mod 2 < 1 drop"
    table = f"table bridge {_TRIAL} {{\n chain loss {{\n  {rule}\n }}\n}}\n"
    numgen = _can(runtime, ["nft", "--check", "-f", "-"], table)
    able = {HTB: htb, NETEM: netem, NUMGEN: numgen, IFB: ifb}
    return tuple(kind for kind, can in able.items() if not can)


def _can(runtime: Runtime, argv: list[str], text: str = "") -> bool:
    try:
        runtime.in_network(argv, text)
    except CommandError:
        return False
    return True
