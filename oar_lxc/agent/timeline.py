"""Record how long each phase of a job's containers takes on a node.

Root publishes in ``job.json`` how long the job's preparation took. The agent writes its own phases
to a file, one JSON object a line. The file is removed with the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from oar_lxc.model.events import Phase
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.wire import NoMessageError, decode, encode

# In the order in which a job comes to them.
PHASES = ("prepare", "image", "create", "start", "boot", "provision", "ready", "destroy")


def note(layout: JobLayout, phase: str, begin: float, seconds: float, containers: int) -> None:
    """Record how long a phase took; ignore an error of the file.

    Args:
        layout: the job's names.
        phase: one of :data:`PHASES`.
        begin: when the phase began, in seconds since the epoch.
        seconds: how long it took.
        containers: how many containers it dealt with.
    """
    fact = Phase(phase, round(begin, 4), round(seconds, 4), containers)
    with suppress(OSError), layout.timeline.open("a") as file:
        file.write(encode(fact).decode() + "\n")


@contextmanager
def noted(layout: JobLayout, phase: str, containers: int) -> Iterator[None]:
    """Record how long the block takes, unless it raises; see :func:`note`."""
    begin, start = time.time(), time.monotonic()
    yield
    note(layout, phase, begin, time.monotonic() - start, containers)


def read_timeline(layout: JobLayout, published: PublishedJob) -> Iterator[Phase]:
    """Yield the phases on this node, ``prepare`` first, then as the agent recorded them.

    Only ``prepare`` has ``steps``: seconds by the name of root's step.
    """
    if published.prepared:
        steps = dict(published.prepared)
        seconds, begin = steps.pop("all", 0.0), steps.pop("begin", 0.0)
        yield Phase("prepare", begin, seconds, 0, steps)
    with suppress(OSError):
        for line in layout.timeline.read_text().splitlines():
            with suppress(NoMessageError):  # the last line may not be complete yet
                fact = decode(line, {Phase.kind: Phase}, Phase.kind)
                if fact and fact.phase in PHASES:
                    yield fact
