"""Start, stop, freeze and destroy containers of one node while their job runs.

These are operations of the agent. For each container they emit its new state as
:class:`~oar_lxc.model.events.Changed`, or ``Failed`` if the state could not be changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from oar_lxc.agent.hosts import forget, may_be_stale, tell_neighbours, write_hosts
from oar_lxc.agent.membership import leave_networks
from oar_lxc.agent.node import OnNode
from oar_lxc.agent.ports import close_ports
from oar_lxc.agent.timeline import note
from oar_lxc.agent.times import LAUNCHED, READY, write_times
from oar_lxc.container.create import free_overlays, remove_containers, remove_half_made
from oar_lxc.container.limit_cgroups import thaw_limit_cgroups
from oar_lxc.container.runtime import KILL_TIMEOUT
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.model import events, requests
from oar_lxc.model.description import containers_of
from oar_lxc.model.states import FROZEN, RUNNING, STOPPED


def start(node: OnNode, request: requests.Start) -> None:
    """Start those of the requested containers that are stopped."""
    _start(node, _names(node, request))


def stop(node: OnNode, request: requests.Stop) -> None:
    """Shut containers down, and kill those that still run after the request's ``timeout``.

    With a timeout of 0, kill them at once.
    """
    _stop(node, _names(node, request), request.timeout)


def restart(node: OnNode, request: requests.Restart) -> None:
    """Stop containers as :func:`stop` does, and start them again."""
    _start(node, _stop(node, _names(node, request), request.timeout, silent=True))


def freeze(node: OnNode, request: requests.Freeze) -> None:
    """Stop all processes of containers where they are."""
    _freeze(node, _names(node, request), RUNNING, FROZEN)


def unfreeze(node: OnNode, request: requests.Unfreeze) -> None:
    """Let frozen containers run on."""
    _freeze(node, _names(node, request), FROZEN, RUNNING)


def destroy(node: OnNode, request: requests.Destroy) -> None:
    """Kill and remove containers of this node: those of a session, or all.

    Events: for each container ``Gone``, or ``Failed`` if it does not die.
    """
    begin, start = time.time(), time.monotonic()
    with node.locked():
        close_ports(node.layout, request.session)
        names = containers_of(node.layout, request.session)
        thaw_limit_cgroups(node.published.cgroups, names)
        if request.grace:
            node.runtime.shutdown(names, request.grace)
        left = node.runtime.kill(names, KILL_TIMEOUT, for_good=True)
        gone = [name for name in names if name not in left]
        remove_containers(node.layout, node.published, gone)
        if request["session"] and not left:
            remove_half_made(node.layout, node.published, request["session"])
        with suppress(OSError, OarLxcError):  # all of it ends with the job at the latest
            if not left:
                leave_networks(node, request.session)
        with suppress(OSError, OarLxcError):  # to tell other containers is not essential
            if not left and forget(node.layout, request.session):
                write_hosts(node, node.runtime.names())
    if names:
        note(node.layout, "destroy", begin, time.monotonic() - start, len(gone))
    for name in gone:
        node.emit(events.Gone(name))
    for name in left:
        _tell_immortal(node, name)


def _names(node: OnNode, request: requests.OnContainers) -> list[str]:
    """Return the requested containers that this node has, and enter the job's cgroups."""
    present = node.runtime.names()
    wanted = request.containers
    # LXC makes and finds the containers' cgroups below those of the process that calls it.
    enter_cgroups(node.published.cgroups, node.published.unit)
    return present if wanted is None else [name for name in wanted if name in present]


def _start(node: OnNode, names: Sequence[str]) -> None:
    with node.locked():
        states = {name: node.runtime.state(name) for name in names}
        for name, state in states.items():
            if state != STOPPED:
                _tell(node, name, state, state)
        begin = time.time()
        stopped = [name for name, state in states.items() if state == STOPPED]
        pids: dict[str, int] = {}
        with node.runtime.starting() as starter:
            free_overlays(node.layout, stopped)
            starter.send(stopped)
            for one in starter.rest():
                if isinstance(one, ContainerError):
                    node.emit(events.Failed.of(one))
                    continue
                # It counts as ready: `start` waits for no more, and does not provision again.
                times = {LAUNCHED: begin, "start_seconds": one.seconds, READY: time.time()}
                write_times(node.layout, one.name, times)
                _tell(node, one.name, RUNNING, STOPPED)
                pids[one.name] = one.init_pid
        tell_neighbours(node.layout, pids)
        if may_be_stale(node.layout):
            write_hosts(node, stopped)


def _stop(
    node: OnNode, names: Sequence[str], timeout: float, *, silent: bool = False
) -> list[str]:
    """Shut containers down, then kill those that still run; return those that are stopped."""
    before = {name: node.runtime.state(name) for name in names}
    left = [name for name, state in before.items() if state != STOPPED]
    if timeout > 0:
        left = node.runtime.shutdown(left, timeout)
    killed = list(left)
    thaw_limit_cgroups(node.published.cgroups, left)
    left = node.runtime.kill(left, KILL_TIMEOUT)
    for name in left:
        _tell_immortal(node, name)
    gone = [name for name in names if name not in left]
    for name in gone:
        if not silent:
            late = timeout > 0 and name in killed
            _tell(node, name, STOPPED, before[name], killed=late)
    return gone


def _freeze(node: OnNode, names: Sequence[str], before: str, after: str) -> None:
    change = node.runtime.freeze if after == FROZEN else node.runtime.unfreeze
    for name in names:
        state = node.runtime.state(name)
        try:
            if state == before:
                change(name)
            elif state != after:
                raise ContainerError(name, "", f"it is {state}, not {before}")
        except ContainerError as error:
            node.emit(events.Failed.of(error))
            continue
        _tell(node, name, after, state)
    if after == RUNNING and may_be_stale(node.layout):
        write_hosts(node, names)


def _tell(node: OnNode, name: str, state: str, was: str, *, killed: bool = False) -> None:
    node.emit(events.Changed(name, state, was, killed))


def _tell_immortal(node: OnNode, name: str) -> None:
    reason = f"it still ran {KILL_TIMEOUT:g} s after SIGKILL"
    node.emit(events.Failed(name, reason))
