"""Edit the lines in /etc that let a user use a job's ids and plug links into its bridge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import UsageError
from oar_lxc.model.layout import JobLayout, check_job_id, check_user
from oar_lxc.root.files import edit_lines, forget, half_written, read_lines
from oar_lxc.root.id_ranges import COUNT

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
USERNET = Path("/etc/lxc/lxc-usernet")


def granted_ranges() -> Iterator[tuple[str, int, int]]:
    """Yield owner, first id and count of each range that shadow grants to any user."""
    for path in (SUBUID, SUBGID):
        for line in _lines(path):
            owner, _, numbers = line.partition(":")
            start, _, count = numbers.partition(":")
            if all(re.fullmatch(r"[0-9]{1,10}", number) for number in (start, count)):
                yield owner, int(start), int(count)


def grant(layout: JobLayout, user: str, first_id: int, links: int) -> None:
    """Let a user use the job's ids and plug up to ``links`` links into the job's bridge."""
    ids = f"{user}:{first_id}:{COUNT}"
    net = f"{user} veth {layout.bridge} {links}"
    for path, line in ((SUBUID, ids), (SUBGID, ids), (USERNET, net)):
        edit_lines(path, lambda lines, line=line: _with(lines, line))  # type: ignore[misc]


def revoke(layout: JobLayout, first_id: int) -> None:
    """Remove the lines of :func:`grant` for any user; the caller holds the node's lock."""
    failed: list[OSError] = []
    for path in (SUBUID, SUBGID, USERNET):
        try:
            forget(half_written(path))
            edit_lines(path, lambda now: [x for x in now if not _is_of(layout, first_id, x)])
        except OSError as error:
            failed.append(error)  # first remove the lines in the other files
    if failed:
        raise failed[0]


def leftover_lines(layout: JobLayout, first_id: int) -> dict[Path, list[str]]:
    """Return the lines that name the job's id range or bridge, by file.

    For a file that cannot be read, the error takes the place of the lines.
    """
    found: dict[Path, list[str]] = {}
    for path in (SUBUID, SUBGID, USERNET):
        try:
            found[path] = [line for line in _lines(path) if _is_of(layout, first_id, line)]
        except OSError as error:
            found[path] = [f"it cannot be read: {error.strerror}"]
    return {path: lines for path, lines in found.items() if lines}


def _is_of(layout: JobLayout, first_id: int, line: str) -> bool:
    """Whether a line of any of the files names the job's id range or bridge."""
    ids = bool(first_id) and line.endswith(f":{first_id}:{COUNT}")
    return ids or line.split()[2:3] == [layout.bridge]


def may_plug(user: str) -> bool:
    """Whether a user may plug a link into any bridge of this node; True if it is not known."""
    try:
        return any(line.startswith((f"{user} ", f"{user}\t", "@")) for line in _lines(USERNET))
    except OSError:
        return True


def jobs_of_lines() -> Iterator[tuple[int, str]]:
    """Yield job and user of each line that lets a user plug links into a job's bridge."""
    for line in _lines(USERNET):
        words = line.split()
        match = re.fullmatch(r"olb([0-9]{1,10})", words[2]) if len(words) == 4 else None
        if match:
            with suppress(UsageError):
                yield check_job_id(match[1]), check_user(words[0])


def _lines(path: Path) -> Iterable[str]:
    try:
        return read_lines(path)
    except FileNotFoundError:
        return []


def _with(lines: list[str], line: str) -> list[str]:
    return lines if line in lines else [*lines, line]
