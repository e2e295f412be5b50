"""Which id range a job gets, and how a lost one is found again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.node import ids
from oar_lxc.node.allocation import KEPT, TABLE, allocate, find_range
from oar_lxc.node.ranges import COUNT, FIRST, RANGES, is_first_id
from oar_lxc.node.record import Record
from tests.unit.strategies import hostile, job_ids, quick

ALICE, BOB = 1001, 1002
TODAY = int(time.time() // 86400)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobLayout:
    """Return the layout of job 42, with the system's files in a directory of our own."""
    for name in ("SUBUID", "SUBGID", "USERNET"):
        monkeypatch.setattr(ids, name, tmp_path / name.lower())
    (tmp_path / "records").mkdir()
    return JobLayout(42, tmp_path)


def give(layout: JobLayout, uid: int = ALICE) -> int | None:
    """Allocate as on a node where nobody had a range before."""
    (layout.state / TABLE).unlink(missing_ok=True)
    return allocate(layout, uid)


def had(layout: JobLayout, table: dict[int, tuple[int, int]]) -> None:
    (layout.state / TABLE).write_text(json.dumps(table))


def write_record(layout: JobLayout, first_id: int) -> None:
    Record(layout.job_id, "bob", "boot", 1.0, first_id, "").write(layout)


def first_of(job_id: int) -> int:
    return FIRST + job_id % RANGES * COUNT


@quick
@given(job_ids)
def test_a_range_lies_in_the_pool(layout: JobLayout, job_id: int) -> None:
    first = give(JobLayout(job_id, layout.state))
    assert first is not None
    assert is_first_id(first)
    assert FIRST <= first <= first + COUNT - 1 < 0x7FFFFFFF


def test_jobs_one_after_the_other_get_different_ranges(layout: JobLayout) -> None:
    found = {give(JobLayout(job_id, layout.state), job_id) for job_id in range(1, 50)}
    assert len(found) == 49


def test_a_range_that_a_record_holds_is_passed_over(layout: JobLayout) -> None:
    write_record(JobLayout(7, layout.state), first_of(42))
    assert give(layout) == first_of(43)


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_a_range_that_someone_was_given_is_passed_over(layout: JobLayout, name: str) -> None:
    (layout.state / name).write_text(f"bob:{first_of(42)}:{COUNT}\n")
    assert give(layout) == first_of(43)


@pytest.mark.parametrize("start", [first_of(42) - 1, first_of(42) + COUNT - 1])
def test_a_range_that_overlaps_by_one_id_is_passed_over(layout: JobLayout, start: int) -> None:
    (layout.state / "subuid").write_text(f"bob:{start}:2\n")
    assert give(layout) not in (None, first_of(42))


def test_ranges_next_to_each_other_do_not_overlap(layout: JobLayout) -> None:
    (layout.state / "subuid").write_text(f"a:{first_of(41)}:{COUNT}\nb:{first_of(43)}:{COUNT}\n")
    assert give(layout) == first_of(42)


def test_the_search_comes_round_to_the_start_of_the_pool(layout: JobLayout) -> None:
    last = JobLayout(RANGES - 1, layout.state)
    write_record(JobLayout(7, layout.state), first_of(RANGES - 1))
    assert give(last) == FIRST


def test_a_full_pool_has_none_and_says_so_soon(layout: JobLayout) -> None:
    lines = "".join(f"u:{first_of(i)}:{COUNT}\n" for i in range(RANGES))
    (layout.state / "subuid").write_text(lines)
    begin = time.monotonic()
    assert give(layout) is None
    assert time.monotonic() - begin < 10


def test_one_range_given_to_somebody_may_be_the_whole_pool(layout: JobLayout) -> None:
    (layout.state / "subgid").write_text(f"u:{FIRST}:{COUNT * RANGES}\n")
    assert give(layout) is None


@quick
@given(st.one_of(st.binary(), hostile.map(str.encode)))
def test_any_file_of_ranges_can_be_read(layout: JobLayout, content: bytes) -> None:
    (layout.state / "subuid").write_bytes(content)
    assert give(layout) is not None


@pytest.mark.parametrize("line", ["x:²:3", "x:1:²", "x:" + "9" * 5000 + ":1", "x:-5:3", "x", "::"])
def test_a_damaged_line_gives_nobody_anything(layout: JobLayout, line: str) -> None:
    (layout.state / "subuid").write_text(f"{line}\nbob:{first_of(42)}:{COUNT}\n")
    assert give(layout) == first_of(43)


def test_a_user_gets_a_range_of_their_own_again(layout: JobLayout) -> None:
    first = allocate(layout, ALICE)
    assert allocate(JobLayout(1000, layout.state), ALICE) == first


def test_two_jobs_of_a_user_at_once_have_two_ranges(layout: JobLayout) -> None:
    first = allocate(layout, ALICE)
    assert first is not None
    write_record(layout, first)
    second = allocate(JobLayout(43, layout.state), ALICE)
    assert second not in (None, first)
    layout.record.unlink()
    assert {allocate(JobLayout(job, layout.state), ALICE) for job in range(44, 60)} == {first}


def test_nobody_gets_a_range_that_another_user_ever_had(layout: JobLayout) -> None:
    first = allocate(layout, ALICE)
    assert allocate(layout, BOB) not in (None, first)
    assert allocate(layout, BOB) != allocate(layout, ALICE)


def test_where_none_is_new_the_one_that_rested_longest_is_given(layout: JobLayout) -> None:
    table = {first_of(i): (ALICE, TODAY - 5) for i in range(RANGES)}
    had(layout, table)
    assert allocate(layout, BOB) is None
    had(layout, table | {first_of(7): (ALICE, TODAY - KEPT), first_of(9): (3, TODAY - 2 * KEPT)})
    assert allocate(layout, BOB) == first_of(9)
    assert allocate(layout, 3) == first_of(7)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"x": [1, 2]}', '{"1": 2}', '{"1": [1]}'])
def test_a_damaged_table_is_one_sentence_and_nobody_gets_a_range(
    layout: JobLayout, text: str
) -> None:
    (layout.state / TABLE).write_text(text)
    with pytest.raises(OarLxcError, match=r"ranges\.json is damaged") as caught:
        allocate(layout, ALICE)
    assert "\n" not in str(caught.value)
    assert (layout.state / TABLE).read_text() == text


def test_the_table_is_written_once_a_day(layout: JobLayout) -> None:
    allocate(layout, ALICE)
    before = (layout.state / TABLE).stat().st_ino
    allocate(layout, ALICE)
    assert (layout.state / TABLE).stat().st_ino == before


def test_a_directory_of_an_ordinary_group_tells_no_range(layout: JobLayout) -> None:
    assert find_range(layout, "alice", ALICE, None) == 0
    layout.directory.mkdir(parents=True)
    assert find_range(layout, "alice", ALICE, None) == 0


def test_lines_tell_the_range_of_a_job_that_lost_all_else(layout: JobLayout) -> None:
    ids.grant(layout, "alice", first_of(5), 5)
    with ids.SUBUID.open("a") as file:
        file.write(f"alice:{first_of(9) + 1}:{COUNT}\n")
    assert find_range(layout, "alice", ALICE, None) == first_of(5)
    assert find_range(layout, "bob", BOB, None) == 0
    assert find_range(JobLayout(layout.job_id + 1, layout.state), "alice", ALICE, None) == 0


def test_lines_of_a_range_that_another_job_has_tell_nothing(layout: JobLayout) -> None:
    ids.grant(layout, "alice", first_of(5), 5)
    write_record(JobLayout(43, layout.state), first_of(5))
    assert find_range(layout, "alice", ALICE, None) == 0


def test_of_two_ranges_neither_is_guessed(layout: JobLayout) -> None:
    ids.grant(layout, "alice", first_of(5), 5)
    ids.grant(layout, "alice", first_of(6), 5)
    assert find_range(layout, "alice", ALICE, None) == 0
