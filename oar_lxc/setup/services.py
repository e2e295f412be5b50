"""Steps about systemd's services, including those of init scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.run import run
from oar_lxc.setup.steps import NotYetError, SetupError, Step

UNITS = Path("/etc/systemd/system")


def running(
    name: str,
    reads: Callable[[], Sequence[Path]] = tuple,
    answers: Callable[[], bool] = lambda: True,
    patience: float = 30,
    reader: Callable[[], str] | None = None,
) -> Step:
    """Make the step after which a service is enabled, runs, and has read its configuration.

    Args:
        name: the unit; for a service, without a suffix.
        reads: returns the files that it reads when it starts. A file that is newer than the
            service's start makes the step restart it.
        answers: whether the service works. An init script's unit is "active" even after its daemon
            has died.
        patience: seconds to wait until it answers.
        reader: returns the unit whose start counts for ``reads``, if it is another unit.
    """

    def reason() -> str | None:
        if _show(name, "LoadState") == "not-found":
            raise NotYetError(f"service {name} is not installed yet")
        if run(["systemctl", "is-enabled", "--quiet", name], check=False).status != 0:
            return "enable and start it"
        if _show(name, "ActiveState") not in ("active", "activating"):
            return "start it"
        started = _started(reader() if reader else name)
        newer = [str(path) for path in reads() if path.exists() and path.stat().st_mtime > started]
        if newer:
            return f"restart it, as {', '.join(newer)} changed"
        return None if answers() else "restart it: it does not answer"

    def pending() -> str | None:
        what = reason()
        return f"service {name}: {what}" if what else None

    def apply() -> None:
        run(["systemctl", "enable", name], timeout=120)
        run(["systemctl", "restart", name], timeout=180, check=False)
        deadline = Deadline.after(patience)
        while (left := reason()) is not None:
            if deadline.passed:
                log = run(["journalctl", "-u", name, "-n", "15", "--no-pager", "-o", "cat"])
                raise SetupError(f"service {name} does not run ({left}). It said:\n{log.stdout}")
            time.sleep(0.2)

    return Step(f"service {name} runs", pending, apply)


def reload_units() -> None:
    """Make systemd read unit files again."""
    run(["systemctl", "daemon-reload"], timeout=120)


def with_reload(step: Step) -> Step:
    """Return the step of a unit file with a reload of systemd's units after it."""
    apply = step.apply
    if apply is None:
        return step

    def apply_and_reload() -> None:
        apply()
        reload_units()

    return Step(step.title, step.pending, apply_and_reload)


def _show(name: str, field: str) -> str:
    return run(["systemctl", "show", "-P", field, name]).stdout.strip()


def _started(name: str) -> float:
    """Return when a unit began to start, in seconds since the epoch; 0 if it never did.

    It reads its files only after that time, so :func:`running` may restart it once too often, but
    never misses a change.
    """
    digits = _show(name, "InactiveExitTimestampMonotonic")
    if not digits.isdigit() or digits == "0":
        return 0.0
    return time.time() - (time.monotonic() - int(digits) / 1e6)
