"""Run the commands of link emulation, in the job's network namespace on one node."""

from __future__ import annotations

from oar_lxc.container.emulation import Abilities, Commands
from oar_lxc.errors import CommandError
from oar_lxc.linux.run import run

_TRIAL = "oar_lxc_trial"  # a device and a table that go at once


def apply(commands: Commands) -> None:
    """Run commands in their order; packets pass by no side meanwhile.

    Raises:
        CommandError: the kernel refuses one.
    """
    if commands.before:
        run(["ip", "-batch", "-"], input=commands.before)
    if commands.tc:
        run(["tc", "-batch", "-"], input=commands.tc)
    run(["nft", "-f", "-"], input=commands.nft)
    if commands.after:
        run(["ip", "-batch", "-"], input=commands.after)


def abilities() -> Abilities:
    """Try what the kernel of this node can do; the trial leaves nothing.

    Raises:
        CommandError: no device at all can be made here.
    """
    try:
        ifb = _can(["ip", "link", "add", "name", _TRIAL, "type", "ifb"])
        if not ifb:
            run(["ip", "link", "add", "name", _TRIAL, "type", "bridge"])
        add = ["tc", "qdisc", "replace", "dev", _TRIAL, "root"]
        htb = _can([*add, "handle", "1:", "htb"])
        netem = _can([*add, "handle", "2:", "netem", "delay", "1ms"])
    finally:
        _can(["ip", "link", "del", "dev", _TRIAL])
    rule = "numgen random mod 2 < 1 drop"
    table = f"table bridge {_TRIAL} {{\n chain loss {{\n  {rule}\n }}\n}}\n"
    numgen = _can(["nft", "--check", "-f", "-"], table)
    return Abilities(htb, netem, numgen, ifb)


def _can(argv: list[str], text: str | None = None) -> bool:
    try:
        run(argv, input=text)
    except CommandError:
        return False
    return True
