"""The root-owned record of a job."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.model.idspans import LOWEST
from oar_lxc.model.layout import JobLayout
from oar_lxc.root.id_ranges import COUNT
from oar_lxc.root.record import Record, read_record, this_boot
from tests.unit.strategies import job_ids, users

RECORD = Record(42, "alice", "boot", 1.5, LOWEST, "/oar/alice_42")


@pytest.fixture
def layout(tmp_path: Path) -> JobLayout:
    (tmp_path / "records").mkdir()
    return JobLayout(42, tmp_path)


def test_a_record_is_read_as_it_was_written_and_only_root_reads_it(layout: JobLayout) -> None:
    RECORD.write(layout)
    assert read_record(layout.record) == RECORD
    assert stat.S_IMODE(layout.record.stat().st_mode) == 0o600
    assert os.listdir(layout.record.parent) == ["42.json"]


@given(job_ids, users, st.floats(0, 2e9), st.integers(0, 4093), st.booleans())
def test_every_record_is_read_as_it_was_written(
    tmp_path: Path, job_id: int, user: str, created: float, number: int, cpuset: bool
) -> None:
    (tmp_path / "records").mkdir(exist_ok=True)
    layout = JobLayout(job_id, tmp_path)
    path = f"/oar/{user}_{job_id}" if cpuset else ""
    record = Record(job_id, user, this_boot(), created, LOWEST + number * COUNT, path)
    record.write(layout)
    assert read_record(layout.record) == record


def test_a_missing_record_is_none(layout: JobLayout) -> None:
    assert read_record(layout.record) is None


def test_a_record_that_was_cut_off_anywhere_is_none(layout: JobLayout) -> None:
    RECORD.write(layout)
    text = layout.record.read_text().rstrip()
    for length in range(len(text)):
        layout.record.write_text(text[:length])
        assert read_record(layout.record) is None


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_garbage_is_none(layout: JobLayout, content: bytes) -> None:
    layout.record.write_bytes(content)
    assert read_record(layout.record) is None


def test_a_nest_deeper_than_python_goes_is_none(layout: JobLayout) -> None:
    layout.record.write_text("[" * 100_000)
    assert read_record(layout.record) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"user": "../../etc"},
        {"user": 7},
        {"user": ""},
        {"job_id": "42x"},
        {"job_id": -1},
        {"first_id": "x"},
        {"first_id": True},
        {"first_id": 1.5},
        {"first_id": None},
        {"oar_cgroup": None},
        {"oar_cgroup": 7},
        {"boot": None},
        {"created": "now"},
        {"created": None},
        {"unknown": 1},
        # Every process of a range is killed: these would take the system's and its users'.
        {"first_id": 1},
        {"first_id": 1000},
        {"first_id": -65536},
        {"first_id": LOWEST + 1},
        # Every process in there is killed, too.
        {"oar_cgroup": "/"},
        {"oar_cgroup": "/oar"},
        {"oar_cgroup": "/oar/bob_43"},
        {"oar_cgroup": "/oar/../user.slice/alice_42"},
    ],
    ids=str,
)
def test_a_record_with_a_value_that_cannot_be_is_none(
    layout: JobLayout, damage: dict[str, object]
) -> None:
    RECORD.write(layout)
    data = json.loads(layout.record.read_text())
    layout.record.write_text(json.dumps({**data, **damage}))
    assert read_record(layout.record) is None


@pytest.mark.parametrize("key", ["job_id", "user", "boot", "created", "first_id", "oar_cgroup"])
def test_a_record_that_lacks_a_value_is_none(layout: JobLayout, key: str) -> None:
    RECORD.write(layout)
    data = json.loads(layout.record.read_text())
    del data[key]
    layout.record.write_text(json.dumps(data))
    assert read_record(layout.record) is None


@pytest.mark.parametrize(
    "later", [("placement",), ("placement", "waits"), ("placement", "waits", "ended")]
)
@pytest.mark.parametrize("first_id", [LOWEST, 0x70000000 + 42 * COUNT])
def test_a_record_of_an_older_version_has_the_defaults_of_what_came_later(
    layout: JobLayout, later: tuple[str, ...], first_id: int
) -> None:
    """Version 0.1 gave out other ids, and knew none of the three."""
    wanted = replace(RECORD, first_id=first_id)
    wanted.write(layout)
    data = json.loads(layout.record.read_text())
    for key in later:
        del data[key]
    layout.record.write_text(json.dumps(data))
    assert read_record(layout.record) == wanted


def test_the_record_of_another_job_is_none(layout: JobLayout) -> None:
    RECORD.write(layout)
    other = JobLayout(43, layout.state)
    layout.record.rename(other.record)
    assert read_record(other.record) is None


def test_a_record_that_is_a_directory_is_none(layout: JobLayout) -> None:
    layout.record.mkdir()
    assert read_record(layout.record) is None


def test_a_job_without_ids_or_cpuset_has_a_record_too(layout: JobLayout) -> None:
    record = Record(42, "alice", this_boot(), 1.5, 0, "")
    record.write(layout)
    assert read_record(layout.record) == record
