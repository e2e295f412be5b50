"""Tell what a node knows of a job's containers: operations of the agent that change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from oar_lxc.agent.job_key import JobKey
from oar_lxc.agent.node import OnNode
from oar_lxc.agent.timeline import read_timeline
from oar_lxc.agent.times import READY, read_times
from oar_lxc.container.facts import init_facts, running_facts
from oar_lxc.container.runtime import RUNNING
from oar_lxc.model.description import configured_address, read_description


def tell_containers(node: OnNode, request: Mapping[str, Any]) -> None:
    """Tell each container's state and what the kernel knows of it, by an event ``container``."""
    times = read_times(node.layout)
    for name in node.runtime.names():
        known = times.get(name, {})
        state = node.runtime.state(name)
        told = read_description(node.layout.containers / name)
        node.emit(
            {
                "event": "container",
                "container": name,
                "node": node.published.node,
                "state": state,
                "host_key": str(told.get("host_key", "")),
                "ready": state == RUNNING and READY in known,
                "address": configured_address(node.layout, name),
                "start_seconds": known.get("start_seconds", 0.0),
                "ready_seconds": known.get("ready_seconds", 0.0),
                **init_facts(node.runtime.init_pid(name)),
            }
        )


def tell_all(node: OnNode, request: Mapping[str, Any]) -> None:
    """Tell all that can be known of ``containers``, by an event ``shown`` for each."""
    times = read_times(node.layout)
    for name in sorted(set(node.runtime.names()) & set(request["containers"])):
        facts = show_container(node, name, times.get(name, {}))
        node.emit({"event": "shown", "container": name, **facts})


def show_container(node: OnNode, name: str, times: Mapping[str, float]) -> dict[str, Any]:
    """Return what can be known of a container now.

    What cannot be read is left out: a container may end while it is looked at.

    Args:
        node: the node it is on.
        name: the container.
        times: of :func:`oar_lxc.agent.times.read_times`.

    Returns:
        ``state``, ``ready`` (whether it runs and is not waited for any more), ``node``,
        ``address``, ``group``, ``image``, ``cores``, ``pid``, ``ports`` (those of the node that
        lead into it) and the times; where it runs also what
        :func:`oar_lxc.container.facts.running_facts` returns.
    """
    record = read_description(node.layout.containers / name)
    pid = max(node.runtime.init_pid(name), 0)
    state = node.runtime.state(name)
    facts: dict[str, Any] = {
        "state": state,
        "node": node.published.node,
        "address": configured_address(node.layout, name),
        "group": str(record.get("group") or re.sub(r"[0-9]+$", "", name)),
        "image": str(record.get("image") or ""),
        "cores": record.get("cores") or 0,
        "ports": record.get("ports") or [],
        "pid": pid,
        **times,
        "ready": state == RUNNING and READY in times,
    }
    if pid:
        facts |= running_facts(node.published.cgroups, name, pid)
    return facts


def tell_keys(node: OnNode, request: Mapping[str, Any]) -> None:
    """Tell the job's key, by an event ``keys``, where it is: on the head node."""
    key = JobKey(node.layout.private)
    with suppress(FileNotFoundError):
        node.emit({"event": "keys", **key.to_client_data()})


def tell_timeline(node: OnNode, request: Mapping[str, Any]) -> None:
    """Tell what each phase of the job's containers took on this node, by events ``phase``."""
    for fact in read_timeline(node.layout, node.published):
        node.emit({"event": "phase", **fact})
