"""The names of all containers of a job, as each of its nodes knows them.

A container is told of all others when it is made. Those that run already are told when another
session of the job launches or ends: by a shell in the container itself, with nothing but its own
rights. No container can lead the writing elsewhere, and what breaks it breaks it for itself.

A node is told by each launch of all sessions that there were then. Launches of two sessions may
come to a node in another order than their numbers were given out: what a node knows only grows,
and sessions that have ended there are remembered as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from oar_lxc.agent.node import OnNode
from oar_lxc.container.runtime import RUNNING
from oar_lxc.linux.atomic import write_whole
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.wire import Event

NAMES = "names.json"
TIMEOUT = 10.0  # seconds in which a container takes new names, or keeps the old ones
Known = dict[str, dict[str, tuple[str, str]]]  # session → container → address, public host key


def learn(layout: JobLayout, sessions: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    """Take in the names of sessions; one caller at a time.

    Args:
        layout: the job's names.
        sessions: address and public host key by container, of each session that is known of.

    Returns:
        Whether there are names of more than one session.
    """
    known, ended = _read(layout)
    for session, names in sessions.items():
        if session not in ended:
            known[session] = {name: (ip, key) for name, (ip, key) in names.items()}
    _write(layout, known, ended)
    return len(known) > 1


def forget(layout: JobLayout, session: str | None) -> bool:
    """Forget the names of a session that has ended, of all where None; one caller at a time.

    Returns:
        Whether there are others, which knew them.
    """
    known, ended = _read(layout)
    gone = [*known] if session is None else [session]
    for one in gone:
        known.pop(one, None)
    _write(layout, known, [*ended, *(one for one in gone if one not in ended)])
    return bool(known)


def all_names(layout: JobLayout) -> dict[str, tuple[str, str]]:
    """Return address and public host key of each container of the job, by its name."""
    return {name: told for names in _read(layout)[0].values() for name, told in names.items()}


def may_be_stale(layout: JobLayout) -> bool:
    """Whether a container of this node may have been told of others than there are now."""
    known, ended = _read(layout)
    return len(known) + len(ended) > 1


def tell(node: OnNode, containers: Sequence[str]) -> None:
    """Tell containers that run all names of the job; what one does not take, it does without."""
    from oar_lxc.agent.execute import execute
    from oar_lxc.container.layer import renaming

    running = [name for name in containers if node.runtime.state(name) == RUNNING]
    if not running:
        return
    enter_cgroups(node.published.cgroups)
    script = renaming(all_names(node.layout)).encode()
    execute(node.runtime, running, ["/bin/sh"], script, TIMEOUT, _ignore, node.abandoned)


def _ignore(event: Event) -> None:
    """Take no notice of what a container says of its own files."""


def _read(layout: JobLayout) -> tuple[Known, list[str]]:
    try:
        data = json.loads((layout.private / NAMES).read_text())
        known = {
            str(session): {str(name): (str(ip), str(key)) for name, (ip, key) in names.items()}
            for session, names in data["sessions"].items()
        }
        return known, [str(session) for session in data["ended"]]
    except FileNotFoundError:
        return {}, []
    except (ValueError, TypeError, KeyError, AttributeError):  # it is the user's
        return {}, []


def _write(layout: JobLayout, known: Known, ended: Sequence[str]) -> None:
    text = json.dumps({"sessions": known, "ended": list(ended)})
    write_whole(layout.private / NAMES, text)
