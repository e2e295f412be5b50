"""The service of a job, by which systemd delegates a cgroup of version 2 to the job's user.

OAR places the job in a slice of systemd, and a slice cannot be delegated: only a service or a
scope inside can. A user's processes enter only a service whose user they have. Its one process,
which keeps the cgroup alive, is root's, so that a user who kills all that is hers kills no
container.
"""

from __future__ import annotations

import time

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.run import run
from oar_lxc.linux.systemd import ask

GONE = "not-found"  # systemd's word for a unit that it does not know
PATIENCE = 10.0  # seconds for one answer of systemd
_MOMENT = 0.01  # seconds
_HOLD = ("/usr/bin/sleep", "2", "/usr/bin/sleep", "infinity")  # path, and arguments by number


def start(unit: str, slice_name: str, uid: int, end: Deadline) -> None:
    """Start a job's service, unless it runs.

    Args:
        unit: its name.
        slice_name: the slice that it goes into.
        uid: the job's user.
        end: when to give up.

    Raises:
        OarLxcError: systemd refused, or it took too long.
    """
    if _is_active(unit, end):
        return
    properties = (
        ("Description", "s", "containers of a job of OAR"),
        ("User", "s", str(uid)),
        ("Slice", "s", slice_name),
        ("Delegate", "b", "true"),
        ("CollectMode", "s", "inactive-or-failed"),
        ("Type", "s", "exec"),  # it is active only when systemd knows the user's id
        ("KillSignal", "i", "9"),
        ("OOMPolicy", "s", "continue"),
        ("TasksMax", "t", str((1 << 64) - 1)),  # the slice and the containers have limits
        ("ExecStartEx", "a(sasas)", "1", *_HOLD, "1", "privileged"),
    )
    words = [word for one in properties for word in one]
    ask(
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        *(unit, "fail", str(len(properties)), *words, "0"),
        timeout=_patience(end),
    )
    while not _is_active(unit, end):
        if end.passed:
            raise OarLxcError(f"systemd has not started {unit} in time")
        time.sleep(_MOMENT)


def stop(unit: str, end: Deadline) -> None:
    """Stop a service or a slice, and forget that it failed; "already gone" is success.

    Raises:
        OarLxcError: systemd could not be asked in time.
    """
    if load_state(unit, end) == GONE:
        return
    run(["systemctl", "stop", unit], timeout=_patience(end), check=False)
    run(["systemctl", "reset-failed", unit], timeout=_patience(end), check=False)


def thaw(slice_name: str, end: Deadline) -> None:
    """Thaw a slice that OAR has frozen: systemd stops nothing in a frozen slice.

    Raises:
        OarLxcError: systemd could not be asked in time.
    """
    run(["systemctl", "thaw", slice_name], timeout=_patience(end), check=False)


def load_state(unit: str, end: Deadline) -> str:
    """Return systemd's word for whether it knows a unit; :data:`GONE` if it does not.

    Raises:
        OarLxcError: systemd could not be asked in time.
    """
    argv = ["systemctl", "show", "--property=LoadState", "--value", unit]
    return run(argv, timeout=_patience(end)).stdout.strip()


def _is_active(unit: str, end: Deadline) -> bool:
    argv = ["systemctl", "is-active", "--quiet", unit]
    return run(argv, timeout=_patience(end), check=False).status == 0


def _patience(end: Deadline) -> float:
    return end.within(PATIENCE).timeout()
