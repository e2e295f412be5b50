"""One node of a job, as the agent acts on it: what every operation of it is given."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oar_lxc.container.runtime import Runtime, Started
from oar_lxc.errors import ContainerError
from oar_lxc.model import wire
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob

Emit = Callable[[wire.Event], None]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class OnNode:
    """A job on one node, for its user.

    Attributes:
        layout: the job's names.
        published: what the root side says of this node.
        runtime: the containers of the job on this node.
        emit: is given every event.
        abandoned: whether nobody reads the events any more.
    """

    layout: JobLayout
    published: PublishedJob
    runtime: Runtime
    emit: Emit
    abandoned: Callable[[], bool] = _never

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Launch and destroy one after the other, whichever session asked."""
        fd = os.open(self.layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def outcome_event(one: Started | ContainerError) -> wire.Started | wire.Failed:
    """Return the event that tells what became of a container that was to start."""
    if isinstance(one, ContainerError):
        return wire.Failed.of(one)
    from oar_lxc.container.facts import init_facts  # loaded while the first ones start

    return wire.Started(one.name, round(one.seconds, 4), **init_facts(one.init_pid))
