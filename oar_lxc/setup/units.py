"""Steps about the units that reap: on nodes at boot and by a timer, and on the server."""

from __future__ import annotations

from oar_lxc.oar.paths import CHECK_LOGS, NODE_CHECK
from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

NODE = "oar-lxc-reap"
SERVER = "oar-lxc-sweep"

CHECK = """\
#!/bin/sh
# The package may be removed, and its set-up stay.
[ ! -x /usr/share/oar-lxc/hooks/node_check ] || exec /usr/share/oar-lxc/hooks/node_check
"""

SERVICE = """\
[Unit]
Description={what}
After={after}
# The package may be removed, and its set-up stay.
ConditionFileIsExecutable={program}

[Service]
Type=oneshot
ExecStart={command}
"""

TIMER = """\
[Unit]
Description={what}, every few minutes

[Timer]
OnBootSec={first}
OnUnitInactiveSec=5min
RandomizedDelaySec=30s
AccuracySec=10s

[Install]
WantedBy=timers.target
"""


def steps() -> list[Step]:
    """Make the steps after which a node reaps by itself, and OAR's node check asks the reaper."""
    what = "Remove what is left of OAR jobs' containers"
    after = "local-fs.target oar-node.service"
    return [
        files.directory(f"{CHECK_LOGS} is there", CHECK_LOGS, 0o755, "oar", "oar"),
        files.own_file("OAR's node check asks the reaper", NODE_CHECK, CHECK, 0o755),
        *_units(NODE, what, after, "/usr/sbin/oar-lxc-node reap", "20s"),
    ]


def server_steps() -> list[Step]:
    """Make the steps after which the server tells nodes of jobs that have ended."""
    what = "Tell nodes which OAR jobs have ended, and let them remove what is left"
    command = "/usr/bin/oar-lxc --log-json reap --everywhere"
    return _units(SERVER, what, "network-online.target oar-server.service", command, "2min")


def _units(name: str, what: str, after: str, command: str, first: str) -> list[Step]:
    (program, *_) = command.split()
    service = SERVICE.format(what=what, after=after, program=program, command=command)
    timer = TIMER.format(what=what, first=first)
    return [
        services.with_reload(
            files.own_file(f"{name} is a service", services.UNITS / f"{name}.service", service)
        ),
        services.with_reload(
            files.own_file(f"{name} has a timer", services.UNITS / f"{name}.timer", timer)
        ),
        services.running(f"{name}.timer"),
    ]
