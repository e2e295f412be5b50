"""Find reasons in LXC's log of a container, as the bindings give none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.model.description import read_description
from oar_lxc.model.layout import LOG_FILE

# Messages in the logs of containers without any failure, or that only follow from one. LXC cannot
# remove the monitor's cgroup while the process that started the container is in it, and says so
# for each hierarchy.
_NOISE = (
    "cgfsng_monitor_destroy",
    "Failed to allocate new network namespace id",
    "No security context received",
    'Unsupported config key "lxc.seccomp"',
)
# What LXC says where there is no init, or a link or a script that leads to nothing.
_NO_INIT = re.compile(
    r"(No such file or directory|Permission denied|Not a directory) - "
    r'Failed to exec "/sbin/init"'
)
LOG_TAIL = 8  # lines of LXC's log that go into an error


def log_tail(directory: Path) -> list[str]:
    """Return the last lines of LXC's log for a container, without their time stamps."""
    try:
        text = (directory / LOG_FILE).read_text(errors="replace")
    except OSError:
        return []
    lines = [re.sub(r"^(\S+ )?\S+ \d{14}\.\d+ ", "", x) for x in text.splitlines()]
    return [x for x in lines if not any(noise in x for noise in _NOISE)][-LOG_TAIL:]


def why_no_init(log: Sequence[str]) -> str:
    """Return the error if a container did not start because its init cannot be run.

    Args:
        log: the last lines of LXC's log.

    Returns:
        The reason; empty if the init is not the cause.
    """
    if any(_NO_INIT.search(line) for line in log):
        return (
            "it has no /sbin/init that can be run: its image needs one, as of systemd-sysv, "
            "openrc or busybox-init"
        )
    return ""


def log_size(directory: Path) -> int:
    """Return the size of LXC's log for a container in bytes, for :func:`why_full`."""
    with suppress(OSError):
        return (directory / LOG_FILE).stat().st_size
    return 0


def why_full(directory: Path, written: int) -> str:
    """Return the error if a command failed because of the container's limit of processes.

    Args:
        directory: the container's directory.
        written: the size of LXC's log before the command was tried.

    Returns:
        The reason; empty if the limit is not the cause.
    """
    with suppress(OSError):
        with (directory / LOG_FILE).open("rb") as log:
            log.seek(written)
            if b"Resource temporarily unavailable - Failed to clone" not in log.read(1 << 16):
                return ""
        limit = read_description(directory).get("processes")
        if type(limit) is int and limit > 0:
            return (
                f"processes is {limit}, which leaves no room for a command: end some inside, or "
                "give its group more"
            )
    return ""
