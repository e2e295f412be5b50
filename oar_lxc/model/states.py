"""LXC's words for the states of a container."""

from __future__ import annotations

RUNNING = "RUNNING"
STOPPED = "STOPPED"
FROZEN = "FROZEN"


def not_running(state: str) -> str:
    """Return why a command cannot run in a container of this state, and what the user can do."""
    cure = {
        STOPPED: "start it with `oar-lxc start`; `oar-lxc logs --lxc` has LXC's log of it",
        FROZEN: "thaw it with `oar-lxc unfreeze`",
    }
    return f"it is {state}, not {RUNNING}" + (f": {cure[state]}" if state in cure else "")
