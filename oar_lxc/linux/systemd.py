"""Ask the system's systemd, through its program busctl, as OAR does.

See org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
from pathlib import Path

from oar_lxc.errors import CommandError, OarLxcError
from oar_lxc.linux.run import Result, run

OWN_CGROUPS = Path("/proc/self/cgroup")
TIMEOUT = 20.0  # seconds for an answer, which takes milliseconds
_MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)


def ask(method: str, signature: str, *words: str, timeout: float = TIMEOUT) -> Result:
    """Call a method of systemd's manager.

    Args:
        method: its name.
        signature: the types of its arguments, in D-Bus's letters.
        words: the arguments, as busctl(1) takes them.
        timeout: seconds.

    Raises:
        CommandError: systemd refuses, or cannot be reached.
    """
    return run(["busctl", "call", *_MANAGER, method, signature, *words], timeout=timeout)


def version() -> str:
    """Return systemd's version, as it tells it itself.

    Raises:
        CommandError: it cannot be reached.
    """
    argv = ["busctl", "get-property", *_MANAGER, "Version"]
    return run(argv, timeout=TIMEOUT).stdout.strip()


def enter_unit(unit: str, subgroup: str) -> None:
    """Move this process into a cgroup of a delegated unit of its own user.

    The kernel lets no user move a process between cgroups whose common parent is root's.

    Args:
        unit: the unit, which systemd has delegated to the user.
        subgroup: the cgroup's path below the unit's, beginning with a slash; it exists.

    Raises:
        OarLxcError: systemd refuses.
    """
    if f"/{unit}{subgroup}\n" in OWN_CGROUPS.read_text():
        return
    try:
        ask("AttachProcessesToUnit", "ssau", unit, subgroup, "1", str(os.getpid()))
    except CommandError as error:
        why = error.stderr.strip() or str(error)
        raise OarLxcError(f"cannot enter systemd's unit {unit}: {why}") from error
