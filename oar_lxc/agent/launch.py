"""Launch a node's share of a plan: make, start and bring up all its containers, or none.

These are operations of the agent. It imports this module while the session still makes the plan.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oar_lxc.agent.hosts import all_names, learn, tell_neighbours, write_hosts
from oar_lxc.agent.job_key import JobKey
from oar_lxc.agent.membership import join_networks, leave_networks
from oar_lxc.agent.node import OnNode, outcome_event
from oar_lxc.agent.ports import open_ports
from oar_lxc.agent.readiness import bring_up, wait_until_ready
from oar_lxc.agent.timeline import note, noted
from oar_lxc.agent.times import LAUNCHED, write_times
from oar_lxc.container.create import create_containers, remove_containers
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.container.runtime import KILL_TIMEOUT, StartedContainer, Starter
from oar_lxc.errors import CommandError, ContainerError, OarLxcError
from oar_lxc.image.provide import provide
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model import events, requests

if TYPE_CHECKING:
    from oar_lxc.model.plan import PlannedContainer


def launch(node: OnNode, request: requests.Launch) -> None:
    """Create, start and bring up this node's containers; remove all if one does not start.

    Events: ``Started`` or ``Failed`` for each container, and those of
    :func:`oar_lxc.agent.readiness.bring_up`.

    Raises:
        OarLxcError: the launch failed as a whole.
    """
    enter_cgroups(node.published.cgroups, node.published.unit)
    with node.runtime.starting() as starter:
        share = request.plan.on(node.published.node)
        launched = time.time()
        with noted(node.layout, "image", 0):
            images = _images(node, share)
        with node.locked():
            _refuse_existing(node, share)
            with _undone_if_it_fails(node, request.session, share, starter):
                node.runtime.make_network()
                link_files = join_networks(node, request)
                JobKey(node.layout).keep(request.keys)
                others = learn(node.layout, request.names)
                secrets = {c.name: bytes.fromhex(request.host_keys[c.name]) for c in share}
                common = NodeLaunch(
                    layout=node.layout,
                    published=node.published,
                    session=request.session,
                    images=images,
                    keys=request.keys,
                    host_keys={name: KeyPair(secret) for name, secret in secrets.items()},
                    names=all_names(node.layout),
                    cores=request.cores.get(node.published.node, 0),
                    variables=request.variables,
                    nodefile=request.plan.nodefile(),
                    link_files=link_files,
                )
                begin, first, making, all_run = time.time(), 0.0, 0.0, True
                pids: dict[str, int] = {}
                start = time.monotonic()
                for batch in create_containers(common, share):
                    making += time.monotonic() - start
                    if node.abandoned():
                        raise OarLxcError("the program that asked for the launch has ended")
                    first = first or time.time()
                    starter.send(batch)
                    all_run &= _tell_outcomes(node, launched, starter.finished(), pids)
                    start = time.monotonic()
                note(node.layout, "create", begin, making, len(share))
                all_run &= _tell_outcomes(node, launched, starter.rest(), pids)
                if not all_run:
                    _undo(node, request.session, share, starter)
                    return
                tell_neighbours(node.layout, pids)
                if share:
                    note(node.layout, "start", first, time.time() - first, len(share))
                if others:
                    write_hosts(node, sorted({*node.runtime.names()} - {c.name for c in share}))
                if any(planned.ports for planned in share):
                    open_ports(node.layout, request.session, share)
    if share:
        bring_up(node, share, request.wait, request.timeout)


def ready(node: OnNode, request: requests.AwaitReady) -> None:
    """Wait until each container of this node is ready.

    Events: ``Ready`` or ``Failed``.
    """
    share = request.plan.on(node.published.node)
    enter_cgroups(node.published.cgroups, node.published.unit)
    wait_until_ready(node, share, request.wait, request.timeout)


def _images(node: OnNode, share: Sequence[PlannedContainer]) -> dict[str, Path]:
    """Return the root directory of each image; unpack an image that is an archive."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    become_root = JobNamespaces(node.layout).become_root
    names = sorted({planned.image for planned in share})
    return {name: provide(node.layout, name, home, become_root) for name in names}


def _refuse_existing(node: OnNode, share: Sequence[PlannedContainer]) -> None:
    for planned in share:
        # A file or directory that is no container counts, too: it would be in the way.
        if (node.layout.containers / planned.name).exists():
            raise ContainerError(
                planned.name,
                node.published.node,
                f"job {node.published.job_id} has one of this name already: give the group "
                f"another name, such as {planned.group}-b",
            )


def _tell_outcomes(
    node: OnNode,
    launched: float,
    outcomes: Iterable[StartedContainer | ContainerError],
    pids: dict[str, int],
) -> bool:
    """Emit an event for each outcome of a start; return whether all these containers run.

    Args:
        node: the node.
        launched: when the launch began.
        outcomes: the outcomes.
        pids: gets the process id of each init that runs.
    """
    all_run = True
    for one in outcomes:
        event = outcome_event(one)
        if isinstance(event, events.Failed):
            all_run = False
        else:
            if isinstance(one, StartedContainer):
                pids[one.name] = one.init_pid
            times = {LAUNCHED: launched, "start_seconds": event.seconds}
            write_times(node.layout, event.container, times)
        node.emit(event)
    return all_run


@contextmanager
def _undone_if_it_fails(
    node: OnNode, session: str, share: Sequence[PlannedContainer], starter: Starter
) -> Iterator[None]:
    """Remove a launch's containers if the block fails.

    Raises:
        OarLxcError: the block raised an OSError or a CommandError, which this turns into a
            sentence. Other errors stay as they are.
    """
    try:
        yield
    except BaseException as error:
        _undo(node, session, share, starter)
        if not isinstance(error, OSError | CommandError):
            raise
        why = error.strerror if isinstance(error, OSError) else _first_line(error.stderr)
        where = node.layout.containers
        raise OarLxcError(f"cannot create containers in {where}: {why}") from error


def _undo(node: OnNode, session: str, share: Sequence[PlannedContainer], starter: Starter) -> None:
    starter.close()  # first: a container that it starts after the kill below would stay
    with suppress(OSError, OarLxcError):
        names = [planned.name for planned in share]
        node.runtime.kill(names, KILL_TIMEOUT, for_good=True)
        remove_containers(node.layout, node.published, names)
        leave_networks(node, session)


def _first_line(text: str) -> str:
    """Return the first line of a program's errors: the others are mostly consequences of it."""
    return (text.strip().splitlines() or ["it said nothing"])[0]
