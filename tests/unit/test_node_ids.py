"""Id ranges of jobs, and the lines that give them out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.layout import JobLayout
from oar_lxc.node import ids
from oar_lxc.node.ranges import COUNT, FIRST, RANGES, is_first_id
from oar_lxc.node.record import Record
from tests.unit.strategies import hostile, job_ids, quick

OTHERS = "root:100000:65536\nalice:165536:65536\n# a comment\n\n"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobLayout:
    """Return the layout of job 42, with the system's files in a directory of our own."""
    for name in ("SUBUID", "SUBGID", "USERNET"):
        monkeypatch.setattr(ids, name, tmp_path / name.lower())
    (tmp_path / "records").mkdir()
    return JobLayout(42, tmp_path)


def write_record(layout: JobLayout, first_id: int) -> None:
    Record(layout.job_id, "bob", "boot", 1.0, first_id, "").write(layout)


def first_of(job_id: int) -> int:
    return FIRST + job_id % RANGES * COUNT


@quick
@given(job_ids)
def test_a_range_lies_in_the_pool(layout: JobLayout, job_id: int) -> None:
    first = ids.allocate(JobLayout(job_id, layout.state))
    assert first is not None
    assert is_first_id(first)
    assert FIRST <= first <= first + COUNT - 1 < 0x7FFFFFFF


def test_jobs_one_after_the_other_get_different_ranges(layout: JobLayout) -> None:
    found = {ids.allocate(JobLayout(job_id, layout.state)) for job_id in range(1, RANGES + 1)}
    assert len(found) == RANGES


def test_a_range_that_a_record_holds_is_passed_over(layout: JobLayout) -> None:
    write_record(JobLayout(7, layout.state), first_of(42))
    assert ids.allocate(layout) == first_of(43)


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_a_range_that_someone_was_given_is_passed_over(layout: JobLayout, name: str) -> None:
    (layout.state / name).write_text(f"bob:{first_of(42)}:{COUNT}\n")
    assert ids.allocate(layout) == first_of(43)


@pytest.mark.parametrize("start", [first_of(42) - 1, first_of(42) + COUNT - 1])
def test_a_range_that_overlaps_by_one_id_is_passed_over(layout: JobLayout, start: int) -> None:
    (layout.state / "subuid").write_text(f"bob:{start}:2\n")
    assert ids.allocate(layout) not in (None, first_of(42))


def test_ranges_next_to_each_other_do_not_overlap(layout: JobLayout) -> None:
    (layout.state / "subuid").write_text(f"a:{first_of(41)}:{COUNT}\nb:{first_of(43)}:{COUNT}\n")
    assert ids.allocate(layout) == first_of(42)


def test_the_search_comes_round_to_the_start_of_the_pool(layout: JobLayout) -> None:
    last = JobLayout(RANGES - 1, layout.state)
    write_record(JobLayout(7, layout.state), first_of(RANGES - 1))
    assert ids.allocate(last) == FIRST


def test_a_full_pool_has_none_and_says_so_soon(layout: JobLayout) -> None:
    lines = "".join(f"u:{first_of(i)}:{COUNT}\n" for i in range(RANGES))
    (layout.state / "subuid").write_text(lines)
    begin = time.monotonic()
    assert ids.allocate(layout) is None
    assert time.monotonic() - begin < 10


def test_one_range_given_to_somebody_may_be_the_whole_pool(layout: JobLayout) -> None:
    (layout.state / "subgid").write_text(f"u:{FIRST}:{COUNT * RANGES}\n")
    assert ids.allocate(layout) is None


@quick
@given(st.one_of(st.binary(), hostile.map(str.encode)))
def test_any_file_of_ranges_can_be_read(layout: JobLayout, content: bytes) -> None:
    (layout.state / "subuid").write_bytes(content)
    assert ids.allocate(layout) is not None


@pytest.mark.parametrize("line", ["x:²:3", "x:1:²", "x:" + "9" * 5000 + ":1", "x:-5:3", "x", "::"])
def test_a_damaged_line_gives_nobody_anything(layout: JobLayout, line: str) -> None:
    (layout.state / "subuid").write_text(f"{line}\nbob:{first_of(42)}:{COUNT}\n")
    assert ids.allocate(layout) == first_of(43)


def test_a_grant_adds_one_line_to_each_file_and_may_run_twice(layout: JobLayout) -> None:
    for name in ("subuid", "subgid", "usernet"):
        (layout.state / name).write_text(OTHERS)
    for _ in range(2):
        ids.grant(layout, "alice", first_of(42), 100)
    for name in ("subuid", "subgid"):
        assert (layout.state / name).read_text() == f"{OTHERS}alice:{first_of(42)}:{COUNT}\n"
    assert (layout.state / "usernet").read_text() == f"{OTHERS}alice veth olb42 100\n"


def test_a_revocation_takes_back_what_was_given_and_nothing_else(layout: JobLayout) -> None:
    others = JobLayout(420, layout.state)
    ids.grant(others, "alice", first_of(420), 100)
    ids.grant(layout, "alice", first_of(42), 100)
    for _ in range(2):
        ids.revoke(layout, first_of(42))
    assert ids.leftover_lines(layout, first_of(42)) == {}
    for name in ("subuid", "subgid"):
        assert (layout.state / name).read_text() == f"alice:{first_of(420)}:{COUNT}\n"
    assert (layout.state / "usernet").read_text() == "alice veth olb420 100\n"


def test_a_revocation_finds_the_lines_whoever_they_name(layout: JobLayout) -> None:
    (layout.state / "subuid").write_text(f"mallory:{first_of(42)}:{COUNT}\n")
    (layout.state / "usernet").write_text("mallory veth olb42 1\nbob veth lxcbr0 2\n")
    ids.revoke(layout, first_of(42))
    assert (layout.state / "subuid").read_text() == ""
    assert (layout.state / "usernet").read_text() == "bob veth lxcbr0 2\n"


def test_without_a_known_range_only_the_line_of_the_bridge_is_taken(layout: JobLayout) -> None:
    ids.grant(layout, "alice", first_of(42), 100)
    assert set(ids.leftover_lines(layout, 0)) == {layout.state / "usernet"}


def test_leftover_lines_tell_of_each_file(layout: JobLayout) -> None:
    ids.grant(layout, "alice", first_of(42), 100)
    assert {path.name for path in ids.leftover_lines(layout, first_of(42))} == {
        "subuid",
        "subgid",
        "usernet",
    }


def test_files_that_do_not_exist_have_no_lines(layout: JobLayout) -> None:
    assert ids.leftover_lines(layout, first_of(42)) == {}
    ids.revoke(layout, first_of(42))
    assert list(layout.state.glob("sub*")) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (FIRST, True),
        (FIRST + COUNT * (RANGES - 1), True),
        (FIRST + 1, False),
        (FIRST + COUNT * RANGES, False),
        (FIRST - COUNT, False),
        (0, False),
    ],
)
def test_ranges_start_at_known_places(number: int, expected: bool) -> None:
    assert is_first_id(number) is expected


def test_a_directory_of_an_ordinary_group_tells_no_range(layout: JobLayout) -> None:
    assert ids.range_of_directory(layout) == 0
    layout.directory.mkdir(parents=True)
    assert ids.range_of_directory(layout) == 0
