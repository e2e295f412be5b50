"""Where the time of a job's containers goes on a node, phase by phase, while the job runs.

The root side says in ``job.json`` what the job's preparation took. What the agent does it notes
itself, a JSON object a line, in a file that ends with the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.wire import NoMessageError, Phase, decode, encode

# In the order in which a job comes to them.
PHASES = ("prepare", "image", "create", "start", "boot", "provision", "ready", "destroy")


def timeline_file(layout: JobLayout) -> Path:
    """Return the file of a job's phases on a node."""
    return layout.private / "timeline.jsonl"


def note(layout: JobLayout, phase: str, begin: float, seconds: float, containers: int) -> None:
    """Keep what a phase took; what cannot be kept stops nothing.

    Args:
        layout: the job's names.
        phase: one of :data:`PHASES`.
        begin: when it began, in seconds since the epoch.
        seconds: what it took.
        containers: how many it was of.
    """
    fact = Phase(phase, round(begin, 4), round(seconds, 4), containers)
    with suppress(OSError), timeline_file(layout).open("a") as file:
        file.write(encode(fact).decode() + "\n")


@contextmanager
def noted(layout: JobLayout, phase: str, containers: int) -> Iterator[None]:
    """Keep what the block takes, where it ends well; see :func:`note`."""
    begin, start = time.time(), time.monotonic()
    yield
    note(layout, phase, begin, time.monotonic() - start, containers)


def read_timeline(layout: JobLayout, published: PublishedJob) -> Iterator[Phase]:
    """Yield what each phase took on this node, in the order in which they began.

    Of ``prepare`` alone it has ``steps``, seconds by the name of a step of the root side's.
    """
    if published.prepared:
        steps = dict(published.prepared)
        seconds, begin = steps.pop("all", 0.0), steps.pop("begin", 0.0)
        yield Phase("prepare", begin, seconds, 0, steps)
    with suppress(OSError):
        for line in timeline_file(layout).read_text().splitlines():
            with suppress(NoMessageError):  # the end of one may not be written yet
                fact = decode(line, {Phase.kind: Phase}, Phase.kind)
                if fact and fact.phase in PHASES:
                    yield fact
