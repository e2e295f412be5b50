"""Room in the kernel's table of neighbours: the hardware addresses that every machine here knows.

The kernel has one table for all network namespaces. Containers that all talk to each other need an
entry for each pair, and 33 of them have more pairs than the 1,024 entries that it allows by
default: what needs one more then fails, the node's own connections too. Permanent entries, which
most containers are given (:mod:`oar_lxc.container.lxc_config`), do not count.

Only the initial network namespace shows the limits. A node that is a container has its host's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LIMITS = Path("/proc/sys/net/ipv4/neigh/default")
# Entries that are never removed, that are removed once unused, and that there may be at most: all
# pairs of 362 containers. An entry takes half a KiB, while it is there.
WANTED = {"gc_thresh1": 16384, "gc_thresh2": 65536, "gc_thresh3": 131072}


def too_low(place: Path = LIMITS) -> dict[str, int]:
    """Return the limits that this machine can raise and has lower, and what they should be."""
    return {
        name: wanted
        for name, wanted in WANTED.items()
        if os.access(place / name, os.W_OK) and int((place / name).read_text()) < wanted
    }


def make_room(place: Path = LIMITS) -> None:
    """Raise the limits that are too low; those that are higher stay.

    What the kernel refuses stays too low, which set-up tells: jobs' walls do not depend on it.
    """
    for name, wanted in sorted(too_low(place).items(), reverse=True):  # never above the next
        with suppress(OSError):
            (place / name).write_text(f"{wanted}\n")


def shown(place: Path = LIMITS) -> bool:
    """Tell whether the limits of this machine's kernel are seen here."""
    return (place / "gc_thresh3").exists()
