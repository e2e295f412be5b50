"""One node of a job, as the agent acts on it: what every operation of it is given."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oar_lxc.container.runtime import Runtime, Started
from oar_lxc.errors import ContainerError
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob

Emit = Callable[[dict[str, Any]], None]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class OnNode:
    """A job on one node, for its user.

    Attributes:
        layout: the job's names.
        published: what the root side says of this node.
        runtime: the containers of the job on this node.
        emit: is given every event, which has a key ``event``.
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


def failed_event(error: ContainerError) -> dict[str, Any]:
    """Return the event that tells of a container's failure."""
    return {
        "event": "failed",
        "container": error.container,
        "reason": error.reason,
        "log": list(error.log),
    }


def outcome_event(one: Started | ContainerError) -> dict[str, Any]:
    """Return the event that tells what became of a container that was to start.

    It is ``started`` with ``seconds`` and what the kernel says of its init, or ``failed``.
    """
    if isinstance(one, ContainerError):
        return failed_event(one)
    from oar_lxc.container.facts import init_facts  # loaded while the first ones start

    seconds = round(one.seconds, 4)
    return {
        "event": "started",
        "container": one.name,
        "seconds": seconds,
        **init_facts(one.init_pid),
    }
