"""The lines by which shadow and LXC let a user have a job's ids and plug into its bridge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import UsageError
from oar_lxc.layout import JobLayout, check_job_id, check_user
from oar_lxc.node.files import edit_lines, half_written, split_lines
from oar_lxc.node.ranges import COUNT

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
USERNET = Path("/etc/lxc/lxc-usernet")


def granted_ranges() -> Iterator[tuple[str, int, int]]:
    """Yield owner, first id and count of each range that shadow grants to anyone."""
    for path in (SUBUID, SUBGID):
        for line in _lines(path):
            owner, _, numbers = line.partition(":")
            start, _, count = numbers.partition(":")
            if all(re.fullmatch(r"[0-9]{1,10}", number) for number in (start, count)):
                yield owner, int(start), int(count)


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


def jobs_of_lines() -> Iterator[tuple[int, str]]:
    """Yield job and user of each line that lets a user plug into a job's bridge."""
    for line in _lines(USERNET):
        words = line.split()
        match = re.fullmatch(r"olb([0-9]{1,10})", words[2]) if len(words) == 4 else None
        if match:
            with suppress(UsageError):
                yield check_job_id(match[1]), check_user(words[0])


def _lines(path: Path) -> Iterable[str]:
    try:
        return split_lines(path.read_bytes().decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return []


def _with(lines: list[str], line: str) -> list[str]:
    return lines if line in lines else [*lines, line]
