"""Enlarge the kernel's table of neighbours, which holds the hardware addresses that machines know.

The kernel has one table for all network namespaces. Containers that all talk to each other need an
entry for each pair, and 33 containers have more pairs than the default of 1,024 entries. Further
connections then fail, also the node's own. Permanent entries do not count; most containers get
them (:mod:`oar_lxc.container.lxc_config`).

Only the initial network namespace shows the limits. For a node that is a container, its host's
limits count.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LIMITS = Path("/proc/sys/net/ipv4/neigh/default")
# Below the first number of entries, none is removed; above the second, unused ones are removed
# soon; the third is the most: all pairs of 362 containers. An entry takes half a KiB.
WANTED = {"gc_thresh1": 16384, "gc_thresh2": 65536, "gc_thresh3": 131072}


def too_low(place: Path = LIMITS) -> dict[str, int]:
    """Return the too low limits that this machine can raise, with the wanted values."""
    return {
        name: wanted
        for name, wanted in WANTED.items()
        if os.access(place / name, os.W_OK) and int((place / name).read_text()) < wanted
    }


def make_room(place: Path = LIMITS) -> None:
    """Raise the limits that are too low.

    A limit that the kernel refuses to raise stays too low, and set-up reports it. The isolation of
    jobs does not depend on it.
    """
    for name, wanted in sorted(too_low(place).items(), reverse=True):  # the highest first
        with suppress(OSError):
            (place / name).write_text(f"{wanted}\n")


def shows_limits(place: Path = LIMITS) -> bool:
    """Whether this network namespace shows the kernel's limits."""
    return (place / "gc_thresh3").exists()
