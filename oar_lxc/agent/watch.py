"""Watch running containers: tell when the memory of one was full, and when one stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from oar_lxc.agent.node import Emit, OnNode
from oar_lxc.container.limits import oom_kills
from oar_lxc.container.runtime import Runtime
from oar_lxc.model import events, requests
from oar_lxc.model.description import containers_of

INTERVAL = 1.0  # seconds between two looks, at least
EACH = 0.05  # seconds per container, if that is more: the work stays the same for many containers


def watch_request(node: OnNode, request: requests.Watch) -> None:
    """Watch the containers of a session; an operation of the agent."""
    names = containers_of(node.layout, request.session)
    watch(node.runtime, names, node.published.cgroups, node.emit, node.abandoned)


def watch(
    runtime: Runtime,
    names: Sequence[str],
    cgroups: Sequence[str],
    emit: Emit,
    abandoned: Callable[[], bool],
) -> None:
    """Emit ``OutOfMemory`` and ``Stopped`` until the caller is gone.

    Args:
        runtime: the containers of this node.
        names: the containers to watch.
        cgroups: the job's delegated cgroups, as published.
        emit: called with each event.
        abandoned: whether the caller is gone.
    """
    kills = {name: oom_kills(cgroups, name) or 0 for name in names}
    running = {name for name in names if runtime.init_pid(name) > 0}
    while not abandoned():
        time.sleep(max(INTERVAL, EACH * len(names)))
        for name in names:
            killed = oom_kills(cgroups, name) or 0
            if killed > kills[name]:
                emit(events.OutOfMemory(name, killed - kills[name]))
            kills[name] = killed
            runs = runtime.init_pid(name) > 0
            if name in running and not runs:
                emit(events.Stopped(name))
            (running.add if runs else running.discard)(name)
