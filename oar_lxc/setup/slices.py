"""The step about systemd's root slice, without which systemd takes cgroups of jobs away.

Where cgroups have version 1, systemd removes all that are empty, whoever made them, from the
hierarchies of controllers that no unit uses any more; it does so each time the last unit that did
so has ended, and when it reads its units again. A job's are empty until its containers start, and
while they are stopped. The root slice uses the controllers for as long as the node is up.
"""

from __future__ import annotations

from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

FILE = services.UNITS / "-.slice.d/60-oar-lxc.conf"
_TEXT = """\
# Made by oar-lxc setup node. With this, systemd leaves empty cgroups alone.
[Slice]
CPUAccounting=yes
IOAccounting=yes
MemoryAccounting=yes
TasksAccounting=yes
"""


def step() -> Step:
    """Make the step after which systemd removes no cgroup of a job."""
    return services.with_reload(files.own_file("systemd leaves empty cgroups alone", FILE, _TEXT))
