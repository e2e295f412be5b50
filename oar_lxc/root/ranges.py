"""The id ranges of containers: which there are, and whose each is. Pure.

A job gets one range of host ids on a node for all its containers. Files that containers left keep
their owners' ids, set-user-id programs among them, and nodes share file systems: if two users had
the same range, be it on different nodes or years apart, one would be root of the other's
containers. So whose a range is follows from the user alone.

Jobs of one user that are on a node at once have different ranges, as what runs under a range's ids
dies with its job. A user has :data:`JOBS` ranges for that, one in each row. Rows are
:data:`MOST_USERS` ranges long: the ranges beside a user's are other users', and no single mapping
of ids can reach over two of one user's.

The rows lie where systemd lets container managers have ids (systemd's "Users, Groups, UIDs and
GIDs on systemd Systems"), above those that useradd(8) gives to users as subordinate ids
(``SUB_UID_MAX`` of login.defs(5)); what does not fit there lies above 2^31, where the kernel and
LXC have no difficulty. Rows below 2^31 are used first.

Until 0.1 a node gave out ranges by job ids. Those are nobody's any more: whoever got one might
find files of somebody who had it before.
"""

from __future__ import annotations

from collections.abc import Sequence

from oar_lxc.model.idspans import LOWEST, MOST_USERS, Span, number_of

COUNT = 65536
_ROW = MOST_USERS * COUNT
_SPANS = ((LOWEST, 4), (0x80000000, 8))  # to 0x63fbffff, to 0xfff7ffff
_ROWS = tuple(first + row * _ROW for first, rows in _SPANS for row in range(rows))
JOBS = len(_ROWS)  # of one user on a node at once
_FORMER = range(0x70000000, 0x7FFE0000, COUNT)


def ranges_of(uid: int, spans: Sequence[Span]) -> list[int]:
    """Return the first ids of a user's ranges; none where no span has the user's id."""
    number = number_of(uid, spans)
    return [] if number is None else [row + number * COUNT for row in _ROWS]


def overlapping(start: int, count: int) -> list[tuple[int, int]]:
    """Return the first and the last id of each part of some ids that jobs may have."""
    spans = [(first, first + rows * _ROW - 1) for first, rows in _SPANS]
    parts = [(max(start, first), min(start + count - 1, last)) for first, last in spans]
    return [(first, last) for first, last in parts if first <= last]


def is_first_id(number: int) -> bool:
    """Whether a range starts at this id, one that nodes gave out until 0.1 included."""
    return number in _FORMER or any(number in range(row, row + _ROW, COUNT) for row in _ROWS)
