"""Choose the id range of a job: one of its user's ranges that no other job has.

A range's user follows from the configuration (:mod:`oar_lxc.root.id_ranges`). A node also keeps a
table of the user that had each range. If a change of the configuration would give a range to
another user, no job gets that range. And the table still tells the ranges of jobs that are gone.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.regular import read_regular
from oar_lxc.model.config import Config
from oar_lxc.model.idspans import Span, format_spans
from oar_lxc.model.layout import CONFIG, JOB_DIRECTORIES, RECORDS, JobLayout
from oar_lxc.root.files import write_durably
from oar_lxc.root.id_ranges import COUNT, JOBS, is_first_id, ranges_of
from oar_lxc.root.ownership import Whose
from oar_lxc.root.record import Record, read_record

TABLE = "ranges.json"  # below the state directory: first id → [uid, day when it was first given]
DAY = 86400
NSPAWN = Path("/run/systemd/nspawn-uid")  # a file per used range of 65536, named by its first id


class NoRangeError(OarLxcError):
    """There is no range for a job, through no fault of the node."""


def allocate(layout: JobLayout, user: str, uid: int, spans: Sequence[Span] = Config.users) -> int:
    """Return the first id of a range for a user's job.

    The caller holds the node's lock until the record with the range is written.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id.
        spans: the user ids that may have containers.

    Raises:
        NoRangeError: the user has no ranges, or all of them are in use.
        OarLxcError: the table of ranges is damaged.
    """
    mine = ranges_of(uid, spans)
    if not mine:
        raise NoRangeError(
            f"user {user} has the id {uid}, for which no ids of containers are set aside: "
            f"ids.users in {CONFIG} is {format_spans(spans)}; append {uid} to it, on all machines "
            "of the cluster alike"
        )
    path = layout.state / TABLE
    table = _read(path)
    for first in mine:
        if (before := table.get(first, (uid, 0))[0]) != uid:
            raise NoRangeError(
                f"the ids of containers of user {user}, {first} and up, were those of user id "
                f"{before} on this node: ids.users in {CONFIG} was changed otherwise than by "
                "appending; put it back as it was, on all machines of the cluster alike"
            )
    taken = list(_taken(layout.state))
    for first in mine:
        if all(first + COUNT <= start or start + count <= first for start, count in taken):
            break
    else:
        raise NoRangeError(
            f"all {JOBS} id ranges of user {user} are in use on this node: submit the job again "
            f"when another one of {user} here has ended"
        )
    if first not in table:
        table[first] = (uid, int(time.time() // DAY))
        text = json.dumps({str(key): value for key, value in sorted(table.items())})
        write_durably(path, text + "\n")
    return first


def _read(path: Path) -> dict[int, tuple[int, int]]:
    try:
        data = json.loads(read_regular(path, owners={os.geteuid()}))
        table = {int(first): (int(uid), int(day)) for first, (uid, day) in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OarLxcError(
            f"{path} is damaged ({error}): it tells which user had which ids. Restore it; or, "
            f"where ids.users in {CONFIG} was never changed but by appending, remove it"
        ) from error
    return {first: value for first, value in table.items() if is_first_id(first)}


def _taken(state: Path) -> Iterator[tuple[int, int]]:
    for first in first_ids(state):
        yield first, COUNT
    # systemd-nspawn takes ranges that the user database does not have, and lists them here.
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(NSPAWN):
            if re.fullmatch(r"[0-9]{1,10}", name):
                yield int(name), COUNT


def first_ids(state: Path) -> set[int]:
    """Return the first ids of all jobs, from their records and their directories."""
    records = map(read_record, (state / RECORDS).glob("*.json"))
    found = {record.first_id for record in records if record}
    for directory in (state / JOB_DIRECTORIES).glob("*"):
        with suppress(FileNotFoundError):
            found.add(directory.lstat().st_gid)
    return {first for first in found if is_first_id(first)}


def find_whose(layout: JobLayout, uid: int, first_id: int) -> Whose:
    """Return the ids of a job, and all ranges that its user has or had on this node.

    Args:
        layout: names of any job of this node.
        uid: the user's id; -1 if unknown.
        first_id: first id of the job's range; 0 if it had none.
    """
    table: dict[int, tuple[int, int]] = {}
    with suppress(OarLxcError):  # a table that cannot be read tells nothing
        table = _read(layout.state / TABLE)
    found = sorted((first, COUNT) for first, (owner, _) in table.items() if owner == uid)
    return Whose(uid, first_id, tuple(found))


def find_range(layout: JobLayout, uid: int, record: Record | None) -> int:
    """Return the first id of a job's range; 0 if it cannot be found.

    The group of the job's root-owned directory tells it, and so does the record.

    Args:
        layout: the job's names.
        uid: the user's id; -1 if unknown. A range of another user is not the job's.
        record: the job's record.
    """
    found = [record.first_id] if record else []
    with suppress(OSError):
        found.insert(0, layout.directory.lstat().st_gid)
    return next((first for first in found if is_of(first, uid, layout.state)), 0)


def possible_ranges(
    layout: JobLayout, user: str, uid: int, spans: Sequence[Span] = Config.users
) -> set[int]:
    """Return the first ids that a job may have had, if this node has lost all facts about it.

    These are the user's ranges, except those that other jobs have now.

    Args:
        layout: the job's names.
        user: the job's user.
        uid: the user's id; -1 if unknown.
        spans: the user ids that may have containers.

    Raises:
        UsageError: the user's ranges are not known.
    """
    if uid == -1:
        raise UsageError(
            f"user {user} does not exist on this node, so that nothing tells which ids job "
            f"{layout.job_id} had: give --first-id"
        )
    try:
        table = _read(layout.state / TABLE)
    except OarLxcError as error:
        raise UsageError(f"{error}; or give --first-id") from error
    mine = {first for first, (owner, _) in table.items() if owner == uid}
    return mine.union(ranges_of(uid, spans)) - first_ids(layout.state)


def is_of(first: int, uid: int, state: Path) -> bool:
    """Whether a range may be a user's: no other user had it on this node (-1: any user's)."""
    table: dict[int, tuple[int, int]] = {}
    with suppress(OarLxcError):  # without the table, a range's user is not known
        table = _read(state / TABLE)
    return is_first_id(first) and (uid == -1 or table.get(first, (uid, 0))[0] == uid)
