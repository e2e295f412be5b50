"""Who is who inside containers and outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.model.idmap import Extent, IdMap, map_text

FIRST, COUNT = 0x70000000, 65536
own_ids = st.one_of(st.integers(1, COUNT - 1), st.integers(COUNT, FIRST - 1))


def outside(extents: tuple[Extent, ...], inside: int) -> int | None:
    found = [e.outside + inside - e.inside for e in extents if 0 <= inside - e.inside < e.count]
    assert len(found) <= 1
    return found[0] if found else None


@given(own_ids, own_ids)
def test_only_the_user_is_the_same_on_both_sides(uid: int, gid: int) -> None:
    ids = IdMap.of_job(FIRST, COUNT, uid, gid)
    for extents, own in ((ids.uids, uid), (ids.gids, gid)):
        assert outside(extents, own) == own
        for inside in {0, 1, own - 1, own + 1, COUNT - 1} - {own}:
            expected = FIRST + inside if inside < COUNT else None
            assert outside(extents, inside) == expected
        assert all(extent.count > 0 for extent in extents)


def test_root_is_never_itself() -> None:
    ids = IdMap.of_job(FIRST, COUNT, 0, 0)
    assert ids.uids == ids.gids == (Extent(0, FIRST, COUNT),)
    only = IdMap.only(0, 0)
    for (extent,) in (only.uids, only.gids):
        assert extent.inside == extent.outside > COUNT // 2


def test_only_one_user_and_one_group_are_themselves() -> None:
    assert IdMap.only(1, 2001) == IdMap((Extent(1, 1, 1),), (Extent(2001, 2001, 1),))


@pytest.mark.parametrize(
    ("own", "lines"),
    [
        (1000, ["0 1879048192 1000", "1000 1000 1", "1001 1879049193 64535"]),
        (65535, ["0 1879048192 65535", "65535 65535 1"]),
        (65536, ["0 1879048192 65536", "65536 65536 1"]),
        (70000, ["0 1879048192 65536", "70000 70000 1"]),
    ],
)
def test_the_map_is_written_as_each_reader_wants_it(own: int, lines: list[str]) -> None:
    ids = IdMap.of_job(FIRST, COUNT, own, own)
    assert map_text(ids.uids).splitlines() == lines
    # Nested in a namespace with the map, each line maps ids to themselves.
    parts = [line.split() for line in lines]
    nested = [f"{inside} {inside} {count}" for inside, _, count in parts]
    assert ids.config_lines() == [f"lxc.idmap = {kind} {line}" for kind in "ug" for line in nested]
