"""Let machines keep what they have of the host's cgroups.

LXC puts machines below the host's topmost cgroup, which is systemd's. With version 2 it lets them
have all controllers, and systemd takes away again what none of its own units needs, the cpuset
first. With version 1, systemd removes empty cgroups of such controllers, and those in machines.
So there is a unit that needs all of them, as long as there are machines.
"""

from __future__ import annotations

from oar_lxc.linux.run import run
from oar_lxc.sandbox.state import State
from oar_lxc.setup.requirements import SYSTEMD

# Of a unit that needs all controllers. In version 1, blkio is not among what Delegate has.
ALL = ("--property=Delegate=yes", "--property=IOAccounting=yes")


def keep(state: State) -> None:
    """Let systemd leave all controllers to the machines of a sandbox, where it has them."""
    if not SYSTEMD.is_dir() or kept(state):
        return
    unit = ("--quiet", "--collect", f"--unit={_unit(state)}", "--description=machines of oar_lxc")
    run(["systemd-run", *unit, *ALL, "sleep", "infinity"])


def kept(state: State) -> bool:
    """Return whether :func:`keep` has done something that goes on."""
    argv = ["systemctl", "is-active", "--quiet", _unit(state)]
    return SYSTEMD.is_dir() and run(argv, check=False).status == 0


def release(state: State) -> None:
    """End what :func:`keep` does."""
    if kept(state):
        run(["systemctl", "stop", _unit(state)])


def _unit(state: State) -> str:
    return f"{state.tag}.service"
