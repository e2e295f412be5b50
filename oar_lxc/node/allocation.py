"""Which id range a job gets: one that nobody else has, nor another user ever had.

What a user's containers wrote outside of the job, where their user let them, keeps its owner's id:
a program that is set-user-id to an id of the range, a namespace that an open file holds. Whoever
had the range next would be theirs. So a range stays with its user on a node.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.node.files import write_atomic
from oar_lxc.node.ids import granted_ranges, jobs_of_lines
from oar_lxc.node.ranges import COUNT, FIRST, RANGES, is_first_id
from oar_lxc.node.record import Record, read_record
from oar_lxc.regular import read_regular

TABLE = "ranges.json"  # below the state directory: first id → [uid, day when it was last given]
DAY = 86400
KEPT = 365  # days without a job, after which a range may go to another user where none is new


def allocate(layout: JobLayout, uid: int) -> int | None:
    """Return the first id of a range for a user's job; None where all are taken.

    Hold the node's lock until the record with the answer is written.

    Raises:
        OarLxcError: the table that tells whose the ranges are is damaged.
    """
    path = layout.state / TABLE
    table = _read(path)
    today = int(time.time() // DAY)
    first = _choose(layout, uid, table, today)
    if first is not None and table.get(first) != (uid, today):
        table[first] = (uid, today)
        text = json.dumps({str(key): value for key, value in sorted(table.items())})
        write_atomic(path, text + "\n")
    return first


def _choose(
    layout: JobLayout, uid: int, table: dict[int, tuple[int, int]], today: int
) -> int | None:
    taken = list(_taken(layout.state))

    def free(first: int) -> bool:
        return all(first + COUNT <= start or start + count <= first for start, count in taken)

    mine = [first for first, (owner, _) in table.items() if owner == uid]
    # Where the search for a new one starts differs, so that nobody foresees another's.
    new = (FIRST + (layout.job_id + step) % RANGES * COUNT for step in range(RANGES))
    unused = sorted((day, first) for first, (_, day) in table.items() if today - day >= KEPT)
    for candidates in (mine, (x for x in new if x not in table), [first for _, first in unused]):
        for first in candidates:
            if free(first):
                return first
    return None


def _read(path: Path) -> dict[int, tuple[int, int]]:
    try:
        data = json.loads(read_regular(path, owners={os.geteuid()}))
        table = {int(first): (int(uid), int(day)) for first, (uid, day) in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OarLxcError(
            f"{path} is damaged ({error}): it tells which user had which ids. Restore it, or "
            "remove it and with it, from all places that users can write to, the files that are "
            f"owned by ids from {FIRST} to {FIRST + RANGES * COUNT - 1}"
        ) from error
    return {first: value for first, value in table.items() if is_first_id(first)}


def _taken(state: Path) -> Iterator[tuple[int, int]]:
    for _, start, count in granted_ranges():
        yield start, count
    for first in first_ids(state):
        yield first, COUNT


def first_ids(state: Path) -> set[int]:
    """Return the first ids that jobs have by their records or by their directories."""
    records = map(read_record, (state / "records").glob("*.json"))
    found = {record.first_id for record in records if record}
    for directory in (state / "jobs").glob("*"):
        with suppress(FileNotFoundError):
            found.add(directory.lstat().st_gid)
    return {first for first in found if is_first_id(first)}


def find_range(layout: JobLayout, user: str, uid: int, record: Record | None) -> int:
    """Return the first id of a job; 0 where nothing tells it.

    The job's root-owned directory tells it by its group, and the record does. Where both are lost
    and the job's bridge is still its user's, the only range that is the user's and no job's is it.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id, -1 where it is not known; a range of another user is not the job's.
        record: the job's record.
    """
    found = [record.first_id] if record else []
    with suppress(FileNotFoundError):
        found.insert(0, layout.directory.lstat().st_gid)
    table: dict[int, tuple[int, int]] = {}
    with suppress(OarLxcError):  # without the table, it is not known whose a range is
        table = _read(layout.state / TABLE)
    for first in found:
        if is_first_id(first) and (uid == -1 or table.get(first, (uid, 0))[0] == uid):
            return first
    return _orphan(layout, user)


def _orphan(layout: JobLayout, user: str) -> int:
    if (layout.job_id, user) not in jobs_of_lines():
        return 0
    known = first_ids(layout.state)
    found = {
        start
        for owner, start, count in granted_ranges()
        if owner == user and count == COUNT and is_first_id(start) and start not in known
    }
    return found.pop() if len(found) == 1 else 0
