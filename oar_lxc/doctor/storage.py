"""Whether there is room on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from oar_lxc.doctor.findings import Finding, Machine, Role, problem, warning, well
from oar_lxc.model.layout import STATE

GIB = 1 << 30
LEAST, LITTLE = GIB, 5 * GIB  # bytes
LEAST_PART, LITTLE_PART = 0.02, 0.10  # of the inodes
LOGS = Path("/var/log")
PLACES = {
    Role.SERVER: {Path("/var/lib/postgresql"): "OAR's database", LOGS: "logs"},
    Role.FRONTEND: {LOGS: "logs"},
    Role.NODE: {STATE: "images, and what containers write", LOGS: "logs"},
}


def look(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each directory that fills."""
    for place, what in PLACES[machine.role].items():
        if place.exists():
            room = os.statvfs(place)
            files = room.f_favail / room.f_files if room.f_files else 1.0
            yield judge(place, what, room.f_bavail * room.f_frsize, files)


def judge(place: Path, what: str, free: int, files: float) -> Finding:
    """Return the finding for a directory.

    Args:
        place: the directory.
        what: what is kept there.
        free: bytes that are free.
        files: the part of the inodes that is free, from 0 to 1.
    """
    said = f"{place} has {free / GIB:.1f} GiB and {files:.0%} of its inodes free"
    mend = f"du -xh --max-depth=2 {place} | sort -h | tail"
    if free < LEAST or files < LEAST_PART:
        return problem(said, f"There is no room left for {what}: jobs are refused or fail.", mend)
    if free < LITTLE or files < LITTLE_PART:
        return warning(said, f"There is little room left for {what}.", mend)
    return well(said)
