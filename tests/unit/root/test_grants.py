"""Id ranges of jobs, and the lines that give them out."""

from __future__ import annotations

import pytest

from oar_lxc.model.idspans import LOWEST, MOST_USERS
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import grants
from oar_lxc.root.id_ranges import COUNT, is_first_id

OTHERS = "root:100000:65536\nalice:165536:65536\n# a comment\n\n"


def first_of(job_id: int) -> int:
    return LOWEST + job_id * COUNT


def test_a_grant_adds_one_line_to_each_file_and_may_run_twice(layout: JobLayout) -> None:
    for name in ("subuid", "subgid", "usernet"):
        (layout.state / name).write_text(OTHERS)
    for _ in range(2):
        grants.grant(layout, "alice", first_of(42), 100)
    for name in ("subuid", "subgid"):
        assert (layout.state / name).read_text() == f"{OTHERS}alice:{first_of(42)}:{COUNT}\n"
    assert (layout.state / "usernet").read_text() == f"{OTHERS}alice veth olb42 100\n"


def test_a_revocation_takes_back_what_was_given_and_nothing_else(layout: JobLayout) -> None:
    others = JobLayout(420, layout.state)
    grants.grant(others, "alice", first_of(420), 100)
    grants.grant(layout, "alice", first_of(42), 100)
    for _ in range(2):
        grants.revoke(layout, first_of(42))
    assert grants.leftover_lines(layout, first_of(42)) == {}
    for name in ("subuid", "subgid"):
        assert (layout.state / name).read_text() == f"alice:{first_of(420)}:{COUNT}\n"
    assert (layout.state / "usernet").read_text() == "alice veth olb420 100\n"


def test_a_revocation_finds_the_lines_whoever_they_name(layout: JobLayout) -> None:
    (layout.state / "subuid").write_text(f"mallory:{first_of(42)}:{COUNT}\n")
    (layout.state / "usernet").write_text("mallory veth olb42 1\nbob veth lxcbr0 2\n")
    grants.revoke(layout, first_of(42))
    assert (layout.state / "subuid").read_text() == ""
    assert (layout.state / "usernet").read_text() == "bob veth lxcbr0 2\n"


def test_without_a_known_range_only_the_line_of_the_bridge_is_taken(layout: JobLayout) -> None:
    grants.grant(layout, "alice", first_of(42), 100)
    assert set(grants.leftover_lines(layout, 0)) == {layout.state / "usernet"}


def test_leftover_lines_tell_of_each_file(layout: JobLayout) -> None:
    grants.grant(layout, "alice", first_of(42), 100)
    assert {path.name for path in grants.leftover_lines(layout, first_of(42))} == {
        "subuid",
        "subgid",
        "usernet",
    }


def test_files_that_do_not_exist_have_no_lines(layout: JobLayout) -> None:
    assert grants.leftover_lines(layout, first_of(42)) == {}
    grants.revoke(layout, first_of(42))
    assert list(layout.state.glob("sub*")) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (LOWEST, True),
        (LOWEST + 1, False),
        (LOWEST - COUNT, False),
        (LOWEST + COUNT * (4 * MOST_USERS - 1), True),
        (LOWEST + COUNT * 4 * MOST_USERS, False),
        (0x70000000, True),  # of jobs of before
        (0x7FFD0000, True),
        (0x7FFE0000, False),  # systemd's own
        (0x7FFF0000, False),
        (0x80000000, True),
        (0x80000000 + COUNT * (8 * MOST_USERS - 1), True),
        (0x80000000 + COUNT * 8 * MOST_USERS, False),
        (0xFFFF0000, False),
        (0, False),
    ],
)
def test_ranges_start_at_known_places(number: int, expected: bool) -> None:
    assert is_first_id(number) is expected


def test_lines_tell_of_jobs(layout: JobLayout) -> None:
    grants.grant(layout, "alice", LOWEST, 5)
    with grants.USERNET.open("a") as file:
        file.write(
            "bob veth lxcbr0 10\n@group veth olb7 1\na/b veth olb8 1\nbob veth olb9x 1\n#\n\n"
        )
    assert list(grants.jobs_of_lines()) == [(layout.job_id, "alice")]
