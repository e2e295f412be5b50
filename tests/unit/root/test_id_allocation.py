"""Which id range a job gets, and how a lost one is found again."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.model.idspans import DEFAULT, LOWEST, MOST_USERS, parse_spans
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import id_allocation
from oar_lxc.root.id_allocation import (
    TABLE,
    NoRangeError,
    allocate,
    find_range,
    possible_ranges,
)
from oar_lxc.root.id_ranges import COUNT, JOBS, is_first_id, ranges_of
from oar_lxc.root.record import Record, read_record

ALICE, BOB = 1001, 1002
TODAY = int(time.time() // 86400)
MINE = ranges_of(ALICE, DEFAULT)
uids = st.integers(DEFAULT[0][0], DEFAULT[0][1])


def give(layout: JobLayout, uid: int = ALICE) -> int:
    return allocate(layout, "alice", uid)


def had(layout: JobLayout, table: dict[int, tuple[int, int]]) -> None:
    (layout.state / TABLE).write_text(json.dumps(table))


def write_record(layout: JobLayout, first_id: int) -> None:
    Record(layout.job_id, "bob", "boot", 1.0, first_id, "").write(layout)


@given(uids, st.integers(0, JOBS - 1))
def test_a_range_lies_in_the_pool(uid: int, row: int) -> None:
    first = ranges_of(uid, DEFAULT)[row]
    assert is_first_id(first)
    assert LOWEST <= first <= first + COUNT - 1 < 0xFFFFFFFF
    # systemd's own, and those that nodes gave out by job ids before
    assert not range(max(first, 0x70000000), min(first + COUNT, 0x80000000))


def test_no_two_users_have_ids_in_common() -> None:
    (low, high), *_ = DEFAULT
    firsts = sorted(
        (first, uid) for uid in range(low, high + 1) for first in ranges_of(uid, DEFAULT)
    )
    assert len(firsts) == MOST_USERS * JOBS
    for (one, user), (other, another) in pairwise(firsts):
        assert other - one >= COUNT
        assert user != another  # or one extent of an id map could reach over both


def test_ranges_follow_from_the_user_alone(layout: JobLayout, tmp_path: Path) -> None:
    elsewhere = JobLayout(7_000_000, tmp_path / "another node")
    (elsewhere.state / "records").mkdir(parents=True)
    for uid in (BOB, ALICE):
        give(elsewhere, uid)
    assert give(layout) == give(elsewhere) == ranges_of(ALICE, DEFAULT)[0]
    assert {give(JobLayout(job, layout.state)) for job in range(1, 50)} == {give(layout)}


def test_what_is_appended_changes_nobodys_ranges() -> None:
    spans = parse_spans(["2000-2010"])
    more = parse_spans(["2000-2010", "20017", "1000-1005"])
    assert [ranges_of(uid, more) for uid in range(2000, 2011)] == [
        ranges_of(uid, spans) for uid in range(2000, 2011)
    ]
    found = [ranges_of(uid, more) for uid in (2010, 20017, 1000, 1005)]
    assert [first[0] - LOWEST for first in found] == [n * COUNT for n in (10, 11, 12, 17)]
    assert ranges_of(2011, more) == []


def test_a_user_outside_of_the_spans_is_refused_by_one_sentence(layout: JobLayout) -> None:
    with pytest.raises(NoRangeError) as caught:
        allocate(layout, "carol", 70_123, parse_spans(["1000-1999", "2002"]))
    assert str(caught.value) == (
        "user carol has the id 70123, for which no ids of containers are set aside: ids.users in "
        "/etc/oar-lxc/oar-lxc.toml is 1000-1999, 2002; append 70123 to it, on all machines of the "
        "cluster alike"
    )


def test_a_range_that_a_record_holds_is_passed_over(layout: JobLayout) -> None:
    write_record(JobLayout(7, layout.state), MINE[0])
    assert give(layout) == MINE[1]


def test_a_range_that_a_machine_of_systemd_nspawn_has_is_passed_over(
    layout: JobLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = layout.state / "nspawn-uid"
    taken.mkdir()
    monkeypatch.setattr(id_allocation, "NSPAWN", taken)
    (taken / "524288").touch()
    (taken / "other").touch()
    assert give(layout) == MINE[0]
    (taken / str(MINE[0])).touch()
    assert give(layout) == MINE[1]


def test_who_has_no_free_range_is_told_so_and_gets_no_others(layout: JobLayout) -> None:
    for number, first in enumerate(MINE):
        assert give(layout) == first
        write_record(JobLayout(100 + number, layout.state), first)
    with pytest.raises(
        NoRangeError, match=f"all {JOBS} id ranges of user alice are in use on this"
    ):
        give(layout)
    assert give(layout, BOB) == ranges_of(BOB, DEFAULT)[0]


def test_two_jobs_of_a_user_at_once_have_two_ranges(layout: JobLayout) -> None:
    first = give(layout)
    write_record(layout, first)
    assert give(JobLayout(43, layout.state)) not in (None, first)
    layout.record.unlink()
    assert {give(JobLayout(job, layout.state)) for job in range(44, 60)} == {first}


def test_spans_that_are_changed_otherwise_than_by_appending_give_nobody_anothers_ids(
    layout: JobLayout,
) -> None:
    allocate(layout, "alice", ALICE, parse_spans(["1001-1999"]))
    with pytest.raises(
        NoRangeError, match=r"were those of user id 1001 on this node: ids\.users in"
    ):
        allocate(layout, "bob", BOB, parse_spans(["1002-1999"]))
    assert give(layout) == MINE[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"x": [1, 2]}', '{"1": 2}', '{"1": [1]}'])
def test_a_damaged_table_is_one_sentence_and_nobody_gets_a_range(
    layout: JobLayout, text: str
) -> None:
    (layout.state / TABLE).write_text(text)
    with pytest.raises(OarLxcError, match=r"ranges\.json is damaged") as caught:
        give(layout)
    assert "\n" not in str(caught.value)
    assert (layout.state / TABLE).read_text() == text


def test_the_table_is_written_when_a_range_is_new(layout: JobLayout) -> None:
    give(layout)
    before = (layout.state / TABLE).stat().st_ino
    give(layout)
    assert (layout.state / TABLE).stat().st_ino == before


def test_the_ids_of_a_job_of_which_nothing_is_known_are_one_of_its_users(
    layout: JobLayout,
) -> None:
    former = 0x70000000 + 5 * COUNT
    had(layout, {former: (ALICE, TODAY), former + COUNT: (BOB, TODAY)})
    write_record(JobLayout(7, layout.state), MINE[3])
    assert possible_ranges(layout, "alice", ALICE) == {former, *MINE} - {MINE[3]}
    assert possible_ranges(layout, "carol", 70_000) == set()
    with pytest.raises(UsageError, match="give --first-id"):
        possible_ranges(layout, "gone", -1)
    (layout.state / TABLE).write_text("{")
    with pytest.raises(UsageError, match="give --first-id"):
        possible_ranges(layout, "alice", ALICE)


def test_jobs_of_before_keep_their_ranges_until_they_end(layout: JobLayout) -> None:
    former = 0x70000000 + 5 * COUNT
    record = Record(42, "alice", "boot", 1.0, former, "")
    record.write(layout)
    assert read_record(layout.record) == record
    assert find_range(layout, ALICE, record) == former
    had(layout, {former: (BOB, TODAY)})
    assert find_range(layout, ALICE, record) == 0


def test_a_directory_of_an_ordinary_group_tells_no_range(layout: JobLayout) -> None:
    assert find_range(layout, ALICE, None) == 0
    layout.directory.mkdir(parents=True)
    assert find_range(layout, ALICE, None) == 0
