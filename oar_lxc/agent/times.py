"""Record when each container of a job was launched on this node, and when it was ready.

One file of the job has a line for each fact: to make a file for each container takes longer than
to write a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from oar_lxc.model.layout import JobLayout

LAUNCHED = "launched"
READY = "ready"


def write_times(layout: JobLayout, name: str, times: Mapping[str, float]) -> None:
    """Record times of a container, for :func:`read_times`.

    Args:
        layout: the job's names.
        name: the container.
        times: seconds by key. With ``launched`` among them, the container's earlier times no
            longer count.
    """
    with layout.times.open("a") as file:
        file.write(json.dumps({"container": name, **times}) + "\n")


def read_times(layout: JobLayout) -> dict[str, dict[str, float]]:
    """Return the times of containers by their names.

    Returns:
        ``launched`` and ``ready`` (seconds since the epoch), ``start_seconds``,
        ``ready_seconds``, as far as they are known. A container without ``ready`` is not yet
        ready, or its provision script still runs.
    """
    found: dict[str, dict[str, float]] = {}
    with suppress(OSError):
        for line in layout.times.read_text().splitlines():
            # The user can write to the file: skip a damaged line.
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                times = json.loads(line)
                name = str(times.pop("container"))
                kept = {str(key): float(value) for key, value in times.items()}
                if LAUNCHED in kept:
                    found[name] = {}
                found.setdefault(name, {}).update(kept)
    return found
