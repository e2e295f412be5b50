"""Steps about lxcfs on a node; it shows containers their share instead of the node's numbers."""

from __future__ import annotations

from oar_lxc.container.lxc_config import LXCFS
from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import run
from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

UNIT = "lxcfs.service"
DROP_IN = services.UNITS / f"{UNIT}.d" / "oar-lxc.conf"
_PATIENCE = 5.0  # seconds to wait for an answer

# Debian's unit does not start lxcfs in a container, but a node may be a container. The options let
# lxcfs also show containers their own load, and their part of CPU time as CPUs. A killed lxcfs
# leaves a mount on which it cannot start again. Debian's unit removes it with fusermount, which
# its package does not install; so this uses umount.
_TEXT = f"""\
# Made by oar-lxc setup node.
[Unit]
ConditionVirtualization=

[Service]
ExecStart=
ExecStart=/usr/bin/lxcfs --enable-loadavg --enable-cfs {LXCFS}
ExecStopPost=
ExecStopPost=-/usr/bin/umount --quiet --lazy --no-canonicalize {LXCFS}
"""


def steps() -> list[Step]:
    """Make the steps after which lxcfs runs here and answers."""
    return [
        services.with_reload(
            files.own_file("lxcfs tells containers all of their share", DROP_IN, _TEXT)
        ),
        services.running("lxcfs", reads=lambda: [DROP_IN], answers=answers),
    ]


def answers() -> bool:
    """Whether lxcfs answers in time."""
    try:
        return bool(run(["cat", str(LXCFS / "proc/uptime")], timeout=_PATIENCE).stdout)
    except OarLxcError:
        return False
