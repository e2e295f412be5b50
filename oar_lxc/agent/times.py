"""When each container of a job was launched on this node, and how long it took to be there.

A line for each thing that became known, in one file of the job: a file for each container would
take longer to make than it takes to write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from oar_lxc.model.layout import JobLayout

LAUNCHED = "launched"
READY = "ready"


def write_times(layout: JobLayout, name: str, times: Mapping[str, float]) -> None:
    """Keep times of a container, for :func:`read_times`.

    Args:
        layout: the job's names.
        name: the container.
        times: seconds; where ``launched`` is among them, all that was kept before is over.
    """
    with (layout.private / "times.jsonl").open("a") as file:
        file.write(json.dumps({"container": name, **times}) + "\n")


def read_times(layout: JobLayout) -> dict[str, dict[str, float]]:
    """Return the times of containers by their names.

    Returns:
        ``launched`` and ``ready`` (seconds since the epoch), ``start_seconds``,
        ``ready_seconds``, as far as they are known. What is not ``ready`` is still waited for or
        provisioned.
    """
    found: dict[str, dict[str, float]] = {}
    with suppress(OSError):
        for line in (layout.private / "times.jsonl").read_text().splitlines():
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # it is the user's
                times = json.loads(line)
                name = str(times.pop("container"))
                kept = {str(key): float(value) for key, value in times.items()}
                if LAUNCHED in kept:
                    found[name] = {}
                found.setdefault(name, {}).update(kept)
    return found
