"""The names of all containers of a job, as each of its nodes knows them.

A new container has the names of all others in its files. When another session of the job launches
or ends, running containers get the new names: a shell inside the container writes them, with the
container's own rights. So a container cannot divert the writing to a file outside, and a container
that hinders it harms only itself.

Each launch tells a node the names of all sessions of that moment. The launches of two sessions may
reach a node in another order than the ledger served them. So a node only adds sessions, and
remembers those that have ended there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from oar_lxc.agent.node import OnNode
from oar_lxc.linux.atomic import write_atomic
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.model.description import Device, devices_of
from oar_lxc.model.events import Event
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.message import Names
from oar_lxc.model.names import Peer
from oar_lxc.model.requests import Exec
from oar_lxc.model.states import RUNNING

TIMEOUT = 10.0  # seconds a container has to take new names; after that it keeps the old ones
Known = dict[str, dict[str, Peer]]  # session → container → how others know it


def learn(layout: JobLayout, sessions: Names) -> bool:
    """Record the names of sessions; the caller holds the node's lock.

    Args:
        layout: the job's names.
        sessions: how containers know each other, for each known session.

    Returns:
        Whether this node now has names of more than one session.
    """
    known, ended = _read(layout)
    for session, names in sessions.items():
        if session not in ended:
            known[session] = dict(names)
    _write(layout, known, ended)
    return len(known) > 1


def forget(layout: JobLayout, session: str | None) -> bool:
    """Forget the names of a session that has ended; the caller holds the node's lock.

    Args:
        layout: the job's names.
        session: the session; None: all sessions.

    Returns:
        Whether other sessions are left, whose containers know the forgotten names.
    """
    known, ended = _read(layout)
    gone = [*known] if session is None else [session]
    for one in gone:
        known.pop(one, None)
    _write(layout, known, [*ended, *(one for one in gone if one not in ended)])
    return bool(known)


def all_names(layout: JobLayout) -> dict[str, Peer]:
    """Return how others know each container of the job, by its name."""
    return {name: told for names in _read(layout)[0].values() for name, told in names.items()}


def may_be_stale(layout: JobLayout) -> bool:
    """Whether a container of this node may have names that are out of date."""
    known, ended = _read(layout)
    return len(known) + len(ended) > 1


def tell_neighbours(layout: JobLayout, pids: Mapping[str, int]) -> None:
    """Tell containers that have just started the hardware addresses of all others.

    Args:
        layout: the job's names.
        pids: the process id of each container's init.
    """
    from oar_lxc.container.neighbours import Neighbour, are_told, neighbours_of, tell

    peers = all_names(layout)
    alike: dict[tuple[tuple[str, Device], ...], list[Neighbour]] = {}  # by their interfaces
    neighbours = {}
    for name, pid in pids.items():
        devices = devices_of(layout.containers / name)
        known = alike.get(key := tuple(devices.items()))
        neighbours[pid] = alike[key] = neighbours_of(peers, devices) if known is None else known
    if are_told(sum(map(len, neighbours.values()))):
        tell(neighbours)


def write_hosts(node: OnNode, containers: Sequence[str]) -> None:
    """Write all names of the job into running containers; ignore those that do not take them."""
    from oar_lxc.agent.execute import execute
    from oar_lxc.container.layer import hosts_script

    running = [name for name in containers if node.runtime.state(name) == RUNNING]
    if not running:
        return
    enter_cgroups(node.published.cgroups, node.published.unit)
    peers = all_names(node.layout)
    alike: dict[tuple[str, ...], list[str]] = {}  # containers by their networks
    for name in running:
        alike.setdefault(tuple(devices_of(node.layout.containers / name)), []).append(name)
    for networks, names in alike.items():
        script = hosts_script(peers, networks)
        write = Exec(tuple(names), argv=("/bin/sh",), stdin=script, timeout=TIMEOUT)
        execute(node.runtime, write, _ignore, node.abandoned)


def _ignore(event: Event) -> None:
    """Ignore what a container answers: its files are its own affair."""


def _read(layout: JobLayout) -> tuple[Known, list[str]]:
    try:
        data = json.loads((layout.host_names).read_text())
        known = {
            str(session): {str(name): Peer.from_data(told) for name, told in names.items()}
            for session, names in data["sessions"].items()
        }
        return known, [str(session) for session in data["ended"]]
    except FileNotFoundError:
        return {}, []
    except (ValueError, TypeError, KeyError, AttributeError):  # the user may have damaged it
        return {}, []


def _write(layout: JobLayout, known: Known, ended: Sequence[str]) -> None:
    text = json.dumps({"sessions": known, "ended": list(ended)})
    write_atomic(layout.host_names, text)
