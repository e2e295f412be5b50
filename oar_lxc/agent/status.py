"""Tell what a node knows of a job's containers: operations of the agent that change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from oar_lxc.agent.job_key import JobKey
from oar_lxc.agent.node import OnNode
from oar_lxc.agent.timeline import read_timeline
from oar_lxc.agent.times import LAUNCHED, READY, read_times
from oar_lxc.container.facts import init_facts, running_facts
from oar_lxc.errors import OarLxcError
from oar_lxc.model import events, requests
from oar_lxc.model.description import configured_address, read_description
from oar_lxc.model.states import RUNNING


def list_containers(node: OnNode, request: requests.List) -> None:
    """Emit a ``Container`` for each container: its state, and what the kernel knows of it."""
    times = read_times(node.layout)
    for name in node.runtime.names():
        known = times.get(name, {})
        state = node.runtime.state(name)
        told = read_description(node.layout.containers / name)
        node.emit(
            events.Container(
                container=name,
                node=node.published.node,
                state=state,
                address=configured_address(node.layout, name),
                start_seconds=known.get("start_seconds", 0.0),
                ready_seconds=known.get("ready_seconds", 0.0),
                ready=state == RUNNING and READY in known,
                host_key=str(told.get("host_key", "")),
                **init_facts(node.runtime.init_pid(name)),
            )
        )


def show_containers(node: OnNode, request: requests.Show) -> None:
    """Emit a ``Shown`` for each requested container, with all that can be known of it."""
    times = read_times(node.layout)
    for name in sorted(set(node.runtime.names()) & set(request.containers or ())):
        node.emit(show_container(node, name, times.get(name, {})))


def show_container(node: OnNode, name: str, times: Mapping[str, float]) -> events.Shown:
    """Return all that can be known of a container now.

    Leave out what cannot be read: the container may end in the meantime.

    Args:
        node: the container's node.
        name: the container.
        times: its times, from :func:`oar_lxc.agent.times.read_times`.
    """
    record = read_description(node.layout.containers / name)
    pid = max(node.runtime.init_pid(name), 0)
    state = node.runtime.state(name)
    from oar_lxc.model.spec import Port  # slow to import, and not needed to list containers

    ports: tuple[Port, ...] = ()
    with suppress(TypeError, OarLxcError):  # the user may have changed the description
        ports = tuple(Port(**port) for port in record.get("ports") or ())
    return events.Shown(
        container=name,
        state=state,
        node=node.published.node,
        address=configured_address(node.layout, name),
        group=str(record.get("group") or re.sub(r"[0-9]+$", "", name)),
        image=str(record.get("image") or ""),
        cores=record.get("cores") or 0,
        ports=ports,
        pid=pid,
        ready=state == RUNNING and READY in times,
        launched=times.get(LAUNCHED),
        start_seconds=times.get("start_seconds"),
        ready_seconds=times.get("ready_seconds"),
        **(running_facts(node.published.cgroups, name, pid) if pid else {}),
    )


def send_job_key(node: OnNode, request: requests.TellKeys) -> None:
    """Emit the job's key as a ``Keys``, if this node has it."""
    key = JobKey(node.layout)
    with suppress(FileNotFoundError):
        node.emit(events.Keys(**key.to_client_data()))


def send_timeline(node: OnNode, request: requests.Timeline) -> None:
    """Emit a ``Phase`` for each phase of the job's containers on this node."""
    for phase in read_timeline(node.layout, node.published):
        node.emit(phase)
