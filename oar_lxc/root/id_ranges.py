"""The id ranges for containers, and the user of each. Pure.

A job gets one range of host ids on a node for all its containers. Containers may leave files with
these ids, also set-user-id programs, and nodes share file systems. If two users had the same
range, even on different nodes or years apart, one could be root of the other's containers. So each
range belongs to one user for ever.

When a job ends, all processes with an id of its range are killed. So a user's jobs on a node at
the same time need different ranges. A user has :data:`JOBS` ranges for that, one in each row. A
row has :data:`MOST_USERS` ranges, one per user. So the neighbours of a user's range are other
users' ranges, and no single mapping of ids can span two ranges of one user.

The rows lie in the ids that systemd leaves to container managers (systemd's "Users, Groups, UIDs
and GIDs on systemd Systems"), above the subordinate ids that useradd(8) gives to users
(``SUB_UID_MAX`` of login.defs(5)). The rows that do not fit there lie above 2^31, which the kernel
and LXC support. Rows below 2^31 are used first.

Until 0.1, a node gave out ranges by job ids. No job gets these ranges any more, as it might find
files of a user that had the range before.
"""

from __future__ import annotations

from collections.abc import Sequence

from oar_lxc.model.idspans import LOWEST, MOST_USERS, Span, number_of

COUNT = 65536
_ROW = MOST_USERS * COUNT
_SPANS = ((LOWEST, 4), (0x80000000, 8))  # to 0x63fbffff, to 0xfff7ffff
_ROWS = tuple(first + row * _ROW for first, rows in _SPANS for row in range(rows))
JOBS = len(_ROWS)  # most jobs of one user on a node at once
_FORMER = range(0x70000000, 0x7FFE0000, COUNT)


def ranges_of(uid: int, spans: Sequence[Span]) -> list[int]:
    """Return the first ids of a user's ranges; empty if no span has the user's id."""
    number = number_of(uid, spans)
    return [] if number is None else [row + number * COUNT for row in _ROWS]


def overlapping(start: int, count: int) -> list[tuple[int, int]]:
    """Return first and last id of each part of ``count`` ids from ``start`` that jobs may have."""
    spans = [(first, first + rows * _ROW - 1) for first, rows in _SPANS]
    parts = [(max(start, first), min(start + count - 1, last)) for first, last in spans]
    return [(first, last) for first, last in parts if first <= last]


def is_first_id(number: int) -> bool:
    """Whether a range starts at this id; ranges from before 0.1 count, too."""
    return number in _FORMER or any(number in range(row, row + _ROW, COUNT) for row in _ROWS)
