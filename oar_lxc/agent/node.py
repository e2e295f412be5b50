"""The node of a job on which the agent acts; every operation of the agent gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oar_lxc.container.facts import init_facts
from oar_lxc.container.runtime import Runtime, StartedContainer
from oar_lxc.errors import ContainerError
from oar_lxc.linux.lock import locked
from oar_lxc.model import events
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob

Emit = Callable[[events.Event], None]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class OnNode:
    """A job on this node.

    Attributes:
        layout: the job's names.
        published: what root says of this node.
        runtime: the containers of the job on this node.
        emit: called with each event.
        abandoned: whether the reader of the events is gone.
    """

    layout: JobLayout
    published: PublishedJob
    runtime: Runtime
    emit: Emit
    abandoned: Callable[[], bool] = _never

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the node's lock: of all sessions, one launches or destroys at a time."""
        with locked(self.layout.lock):
            yield


def outcome_event(one: StartedContainer | ContainerError) -> events.Started | events.Failed:
    """Return the event for the outcome of a container's start."""
    if isinstance(one, ContainerError):
        return events.Failed.of(one)
    return events.Started(one.name, round(one.seconds, 4), **init_facts(one.init_pid))
