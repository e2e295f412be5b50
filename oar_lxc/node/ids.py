"""The lines by which shadow and LXC let a user have a job's ids and plug into its bridge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oar_lxc.layout import JobLayout
from oar_lxc.node.files import edit_lines, half_written, split_lines
from oar_lxc.node.ranges import COUNT, FIRST, RANGES, is_first_id
from oar_lxc.node.record import read_record

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
USERNET = Path("/etc/lxc/lxc-usernet")


def allocate(layout: JobLayout) -> int | None:
    """Return the first id of a range that nobody on this node has; None where all are taken.

    The search starts where the job's id points, so that ranges are not reused soon. Hold the
    node's lock until the record with the answer is written.
    """
    taken = set(_taken(layout.state))
    for step in range(RANGES):
        first = FIRST + (layout.job_id + step) % RANGES * COUNT
        if all(first + COUNT <= start or start + count <= first for start, count in taken):
            return first
    return None


def _taken(state: Path) -> Iterator[tuple[int, int]]:
    for path in (SUBUID, SUBGID):
        for _, start, count in _read_ranges(path):
            yield start, count
    for path in (state / "records").glob("*.json"):
        record = read_record(path)
        if record and record.first_id:
            yield record.first_id, COUNT


def _read_ranges(path: Path) -> Iterator[tuple[str, int, int]]:
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return
    for line in split_lines(text):
        owner, _, numbers = line.partition(":")
        start, _, count = numbers.partition(":")
        if all(re.fullmatch(r"[0-9]{1,10}", number) for number in (start, count)):
            yield owner, int(start), int(count)


def range_of_directory(layout: JobLayout) -> int:
    """Return the first id that the job's root-owned directory tells by its group; 0 where none."""
    try:
        group = layout.directory.lstat().st_gid
    except FileNotFoundError:
        return 0
    return group if is_first_id(group) else 0


def grant(layout: JobLayout, user: str, first_id: int, links: int) -> None:
    """Let a user use the job's ids and plug that many links into the job's bridge."""
    ids = f"{user}:{first_id}:{COUNT}"
    net = f"{user} veth {layout.bridge} {links}"
    for path, line in ((SUBUID, ids), (SUBGID, ids), (USERNET, net)):
        edit_lines(path, lambda lines, line=line: _with(lines, line))  # type: ignore[misc]


def revoke(layout: JobLayout, first_id: int) -> None:
    """Take back what :func:`grant` gave, whoever it was given to; hold the node's lock."""
    for path in (SUBUID, SUBGID, USERNET):
        half_written(path).unlink(missing_ok=True)
    for path, lines in leftover_lines(layout, first_id).items():
        edit_lines(path, lambda now, gone=frozenset(lines): [x for x in now if x not in gone])  # type: ignore[misc]


def leftover_lines(layout: JobLayout, first_id: int) -> dict[Path, list[str]]:
    """Return the lines that name the job's id range or bridge, by file."""
    found: dict[Path, list[str]] = {}
    for path in (SUBUID, SUBGID):
        if first_id:
            suffix = f":{first_id}:{COUNT}"
            found[path] = [line for line in _lines(path) if line.endswith(suffix)]
    found[USERNET] = [line for line in _lines(USERNET) if line.split()[2:3] == [layout.bridge]]
    return {path: lines for path, lines in found.items() if lines}


def _lines(path: Path) -> Iterable[str]:
    try:
        return split_lines(path.read_bytes().decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return []


def _with(lines: list[str], line: str) -> list[str]:
    return lines if line in lines else [*lines, line]
