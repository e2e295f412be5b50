"""Whose ids are: a job's, its user's, or somebody else's."""

from __future__ import annotations

import pytest

from oar_lxc.root.id_ranges import COUNT
from oar_lxc.root.ownership import Whose

FIRST = 3 * COUNT
ALICE = Whose(2001, FIRST, ((FIRST, COUNT), (9 * COUNT, 10)))


def test_the_jobs_ids_are_those_of_its_range() -> None:
    assert [ALICE.is_jobs(x) for x in (FIRST - 1, FIRST, FIRST + COUNT - 1, FIRST + COUNT)] == [
        False,
        True,
        True,
        False,
    ]
    assert ALICE.has_jobs([b"0", b"%d" % FIRST])
    assert not ALICE.has_jobs([b"2001", b"0"])


@pytest.mark.parametrize(
    ("start", "count", "overlaps"),
    [
        (FIRST - 5, 5, False),
        (FIRST - 5, 6, True),
        (FIRST + COUNT - 1, 1, True),
        (FIRST + COUNT, COUNT, False),
        (0, 2**32 - 1, True),
    ],
)
def test_extents_overlap_wherever_they_start(start: int, count: int, overlaps: bool) -> None:
    assert ALICE.overlaps(start, count) is overlaps


def test_a_user_has_the_own_id_and_the_ranges_of_all_their_jobs() -> None:
    assert all(map(ALICE.is_users, (2001, FIRST, 9 * COUNT, 9 * COUNT + 9)))
    assert not any(map(ALICE.is_users, (0, 2002, 9 * COUNT + 10, -1)))


def test_who_is_not_known_has_nothing_of_roots() -> None:
    nobody = Whose(-1, 0)
    assert not any(map(nobody.is_users, (-1, 0, 1)))
    assert not Whose(0, 0).is_users(0)
    assert not nobody.overlaps(0, 2**32 - 1)
