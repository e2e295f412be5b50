"""The units that run the reaper: at boot, and every few minutes."""

from __future__ import annotations

from oar_lxc.setup import files, services
from oar_lxc.setup.plan import Step

SERVICE = """\
[Unit]
Description=Remove what is left of OAR jobs' containers
After=local-fs.target oar-node.service

[Service]
Type=oneshot
ExecStart=/usr/sbin/oar-lxc-node reap
"""

TIMER = """\
[Unit]
Description=Remove what is left of OAR jobs' containers, at boot and every few minutes

[Timer]
OnBootSec=20s
OnUnitInactiveSec=5min
AccuracySec=10s

[Install]
WantedBy=timers.target
"""


def steps() -> list[Step]:
    """Make the steps after which the reaper runs by itself."""
    return [
        services.with_reload(
            files.own_file(
                "the reaper is a service", services.UNITS / "oar-lxc-reap.service", SERVICE
            )
        ),
        services.with_reload(
            files.own_file("the reaper has a timer", services.UNITS / "oar-lxc-reap.timer", TIMER)
        ),
        services.running("oar-lxc-reap.timer"),
    ]
