"""Steps about a node's journal, in which containers' ids must get no files of their own.

journald keeps a file of at least 8 MiB for each user id that writes to it, and removes none that
is in use, whatever ``SystemMaxUse`` says. A job has 65,536 ids, so its user could fill the disk
with files of root's. So all messages go into one file. Users outside of the group
``systemd-journal`` do not see their own messages in it.
"""

from __future__ import annotations

from pathlib import Path

from oar_lxc.setup import files, services
from oar_lxc.setup.steps import Step

FILE = Path("/etc/systemd/journald.conf.d/60-oar-lxc.conf")
_TEXT = """\
# Made by oar-lxc setup node.
[Journal]
SplitMode=none
"""


def steps() -> list[Step]:
    """Make the steps after which the journal has no file for each user id."""
    return [
        files.own_file("the journal keeps no file for each id of a job", FILE, _TEXT),
        services.running("systemd-journald", reads=lambda: [FILE]),
    ]
