"""Launch a node's share of a plan: what there is to it before the containers are made.

These are operations of the agent. What starts containers is started first: it comes up while the
rest is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oar_lxc.agent.node import OnNode, failed_event
from oar_lxc.container.runtime import StartAll
from oar_lxc.errors import ContainerError
from oar_lxc.linux.cgroups import enter_cgroups


def launch(node: OnNode, request: Mapping[str, Any]) -> None:
    """Create and start this node's share of a plan: :func:`oar_lxc.agent.make.make_and_start`."""
    enter_cgroups(node.published.cgroups)
    with node.runtime.starting() as start_all:
        from oar_lxc.agent.make import make_and_start

        share = make_and_start(node, request, start_all)
    if share:
        from oar_lxc.agent.readiness import bring_up

        bring_up(node, share, request["wait"], request["timeout"])


def ready(node: OnNode, request: Mapping[str, Any]) -> None:
    """Wait until each container of this node is ready.

    Events: ``reached`` and ``ready``, or ``failed``.
    """
    from oar_lxc.agent.readiness import wait_until_ready
    from oar_lxc.model.plan import Plan

    share = Plan.from_data(request["plan"]).on(node.published.node)
    enter_cgroups(node.published.cgroups)
    wait_until_ready(node, share, request["wait"], request["timeout"])


def start_containers(
    start_all: StartAll, batches: Iterable[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Start containers as they come; yield what became of each as an event.

    Args:
        start_all: of :meth:`oar_lxc.container.runtime.Runtime.starting`.
        batches: names of containers.

    Yields:
        ``started`` with ``seconds`` and what the kernel says of its init, or ``failed``.
    """
    from oar_lxc.container.facts import init_facts  # loaded while the first ones start

    for one in start_all(batches):
        if isinstance(one, ContainerError):
            yield failed_event(one)
        else:
            seconds = round(one.seconds, 4)
            facts = init_facts(one.init_pid)
            yield {"event": "started", "container": one.name, "seconds": seconds, **facts}
