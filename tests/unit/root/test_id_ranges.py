"""The ids that jobs may have, and which parts of others' ids are among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.model.idspans import DEFAULT, LOWEST, MOST_USERS
from oar_lxc.root.id_ranges import COUNT, JOBS, is_first_id, overlapping, ranges_of

HIGHER = 0x80000000
ROW = MOST_USERS * COUNT
LOWER_LAST, HIGHER_LAST = LOWEST + 4 * ROW - 1, HIGHER + 8 * ROW - 1


@pytest.mark.parametrize(
    ("start", "count", "parts"),
    [
        (0, LOWEST, []),
        (0, LOWEST + 1, [(LOWEST, LOWEST)]),
        (LOWEST, 1, [(LOWEST, LOWEST)]),
        (LOWEST + 5, 2, [(LOWEST + 5, LOWEST + 6)]),
        (LOWER_LAST, 9, [(LOWER_LAST, LOWER_LAST)]),
        (LOWER_LAST + 1, HIGHER - LOWER_LAST - 1, []),
        (LOWER_LAST, HIGHER - LOWER_LAST + 1, [(LOWER_LAST, LOWER_LAST), (HIGHER, HIGHER)]),
        (HIGHER_LAST, 1, [(HIGHER_LAST, HIGHER_LAST)]),
        (HIGHER_LAST + 1, 9, []),
        (0, 1 << 32, [(LOWEST, LOWER_LAST), (HIGHER, HIGHER_LAST)]),
    ],
)
def test_parts_of_others_ids_are_told_to_the_id(
    start: int, count: int, parts: list[tuple[int, int]]
) -> None:
    assert overlapping(start, count) == parts


@given(st.integers(DEFAULT[0][0], DEFAULT[0][1]), st.integers(0, JOBS - 1))
def test_each_range_is_one_that_is_told(uid: int, row: int) -> None:
    first = ranges_of(uid, DEFAULT)[row]
    assert is_first_id(first)
    assert overlapping(first, COUNT) == [(first, first + COUNT - 1)]
