"""Whether what removes dead jobs runs and succeeds: the reaper of a node, the server's sweep."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from oar_lxc.doctor.findings import Finding, Machine, Role, problem, unknown, well
from oar_lxc.linux.run import run
from oar_lxc.model.layout import STATE
from oar_lxc.oar.paths import CHECK_LOGS
from oar_lxc.root.reap import STUCK
from oar_lxc.setup import units

LATE = 1800.0  # seconds after the last run; the timer starts it every five minutes
LASTS = 3600.0  # seconds that a run may take
_FIELDS = (
    "LoadState",
    "ActiveState",
    "Result",
    "InactiveExitTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
)


def stuck(machine: Machine) -> Iterator[Finding]:
    """Look whether something cannot be destroyed, and what OAR's node checks say."""
    path = STATE / STUCK
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in lines:
        yield problem(
            f"the reaper could not destroy {line}",
            "OAR gives this node no jobs until it is gone.",
            "oar-lxc reap",
        )
    if not lines:
        yield well("the reaper has destroyed all that it had to")


def node_checks(machine: Machine) -> Iterator[Finding]:
    """Look what OAR's node checks have written: with a log there, OAR suspects the node."""
    logs = sorted(CHECK_LOGS.iterdir()) if CHECK_LOGS.is_dir() else []
    for log in logs:
        mend = "oar-lxc reap" if log.name == "oar-lxc" else f"cat {log}"
        yield problem(
            f"OAR's node check {log.name} has failed",
            "OAR's pings of this node fail: it is Suspected and gets no jobs.",
            mend,
        )
    if not logs:
        yield well("no node check of OAR has failed")


def runs(machine: Machine) -> Iterator[Finding]:
    """Look when the unit ran, and whether it succeeded."""
    name = units.SERVER if machine.role is Role.SERVER else units.NODE
    unit = f"{name}.service"
    shown = run(["systemctl", "show", f"--property={','.join(_FIELDS)}", unit]).stdout
    yield judge_unit(unit, dict(x.split("=", 1) for x in shown.splitlines()), time.monotonic())


def judge_unit(unit: str, shown: Mapping[str, str], now: float) -> Finding:
    """Return the finding for a unit that a timer starts.

    Args:
        unit: its name.
        shown: its properties, as ``systemctl show`` prints them.
        now: seconds of the monotonic clock.
    """
    meaning = "What killed jobs leave is not removed until a later job meets it."
    begun, ended = (int(shown.get(key) or 0) / 1e6 for key in _FIELDS[3:])
    again = f"systemctl restart {unit} ; journalctl -u {unit} -n 20"
    if shown.get("LoadState") != "loaded":
        return unknown(f"there is no unit {unit}", "systemctl daemon-reload")
    if shown.get("ActiveState") in ("activating", "active"):
        if now - begun > LASTS:
            return problem(f"{unit} has run for {(now - begun) / 60:.0f} minutes", meaning, again)
        return well(f"{unit} runs")
    if shown.get("Result") != "success":
        return problem(f"{unit} failed ({shown.get('Result')})", meaning, again)
    if now - ended > LATE:
        return problem(f"{unit} did not run for {(now - ended) / 60:.0f} minutes", meaning, again)
    return well(f"{unit} ran and succeeded") if ended else well(f"{unit} will run")
