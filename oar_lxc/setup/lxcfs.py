"""lxcfs on a node: what tells containers their share where they ask for the node's numbers."""

from __future__ import annotations

from oar_lxc.container.lxc_config import LXCFS
from oar_lxc.errors import OarLxcError
from oar_lxc.linux.run import run
from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

UNIT = "lxcfs.service"
DROP_IN = services.UNITS / f"{UNIT}.d" / "oar-lxc.conf"
_PATIENCE = 5.0  # seconds that it has for an answer

# Debian does not start it in a container, where a node may well be one. Besides what it does by
# default, it is to tell containers their own load, and their part of CPU time as CPUs. What was
# killed leaves a mount that it cannot be started on again; fusermount, which Debian's unit has for
# that, is not installed with it.
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
