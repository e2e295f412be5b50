"""The users that may have ids for containers, and each user's number. Pure.

The ids for a user's containers follow only from the user's number, so they are the same on all
nodes and never change. The number follows from the user's id and the list ``[ids] users`` of the
configuration. The first id of the list has number 0, the next 1, and so on through all spans.
Spans that are appended later change no existing number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

MOST_USERS = 4095  # the ids suffice for so many users, each with ranges for several jobs
LOWEST = 0x24000000  # containers may have the ids from here on
Span = tuple[int, int]  # the first and the last user id
DEFAULT: tuple[Span, ...] = ((1000, 1000 + MOST_USERS - 1),)  # adduser assigns from 1000 on


def parse_spans(words: Iterable[object]) -> tuple[Span, ...]:
    """Return the spans that a list such as ``["1000-1999", "20017"]`` means.

    Raises:
        ValueError: the list is wrong; the text names the word and the reason.
    """
    spans = []
    for word in words:
        match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", str(word))
        if not isinstance(word, str) or not match:
            raise ValueError(f'{word!r} is not "FIRST-LAST" or "UID"')
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last < LOWEST:
            raise ValueError(f"{word!r} is not within 1 to {LOWEST - 1}, the lower number first")
        spans.append((first, last))
    if not spans:
        raise ValueError("it is empty")
    for (_, last), (first, _) in pairwise(sorted(spans)):
        if first <= last:
            raise ValueError(f"user id {first} is in it twice")
    if (count := sum(last - first + 1 for first, last in spans)) > MOST_USERS:
        raise ValueError(f"it has {count} user ids, of which there may be {MOST_USERS}")
    return tuple(spans)


def format_spans(spans: Sequence[Span]) -> str:
    """Return spans as people write them."""
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in spans)


def number_of(uid: int, spans: Sequence[Span]) -> int | None:
    """Return the number of a user, from 0; None if no span has the user's id."""
    before = 0
    for first, last in spans:
        if first <= uid <= last:
            return before + uid - first
        before += last - first + 1
    return None
