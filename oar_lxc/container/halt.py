"""Halt a container in order: the signal or the command that its init knows."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

from oar_lxc.model.layout import CONFIG_FILE

# It asks which init the image has: /proc/1 does not always show which init runs.
HALT_COMMAND = """\
case "$(readlink -f /sbin/init)" in */openrc-init) exec openrc-shutdown --poweroff now ;; esac
for way in poweroff halt "shutdown -h now" "init 0"; do
    command -v ${way%% *} >/dev/null && exec $way
done
exit 127
"""


def halt_signal(directory: Path) -> int:
    """Return the signal at which a container's init halts, from the container's configuration."""
    with suppress(OSError, ValueError, KeyError):  # the user can write to the file
        text = (directory / CONFIG_FILE).read_text()
        if match := re.search(r"^lxc\.signal\.halt *= *SIG(RTMIN\+)?([A-Z0-9]+) *$", text, re.M):
            return (
                int(signal.SIGRTMIN) + int(match[2])
                if match[1]
                else signal.Signals[f"SIG{match[2]}"]
            )
    return signal.SIGPWR  # LXC's default
