"""The names that belong to a job, and what may be one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from oar_lxc.errors import UsageError
from oar_lxc.model.layout import MAX_JOB_ID, JobLayout, check_job_id, check_node, check_user
from tests.unit.strategies import hostile, job_ids, nodes, users


@given(job_ids)
def test_a_job_id_is_a_number(job_id: int) -> None:
    assert check_job_id(job_id) == check_job_id(str(job_id)) == job_id


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "0",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1\n",
            "1_0",
            "0x1",
            "1.0",
            "1e3",
            "١",
            "²",
            "../1",
            "1/2",
        ),
        *(str(MAX_JOB_ID + 1), "9" * 5000),
    ],
)
def test_what_is_no_job_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number from 1 to 2147483647"):
        check_job_id(text)


@given(users)
def test_a_user_name_is_taken(name: str) -> None:
    assert check_user(name) == name


@pytest.mark.parametrize(
    "text", ["", "-x", ".", "..", "../x", "a/b", "a b", "a:b", "a\n", "a\0", "é", "@a", "x" * 257]
)
def test_what_is_no_user_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a user name"):
        check_user(text)


@given(nodes)
def test_a_host_name_is_taken(name: str) -> None:
    assert check_node(name) == name


@pytest.mark.parametrize(
    "text", ["", "-x", "x-", ".", "..", "a..b", "a/b", "a b", "a,b", "a\n", "a;b", "é", "x" * 255]
)
def test_what_is_no_host_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a host name"):
        check_node(text)


@given(hostile)
def test_what_is_taken_is_safe_in_a_path_and_on_a_command_line(text: str) -> None:
    for check in (check_user, check_node, check_job_id):
        try:
            taken = str(check(text))
        except UsageError:
            continue
        assert taken.isascii()
        assert not set(taken) & set("/\0\n\r\t :;,'\"$`\\")
        assert taken not in ("", ".", "..")
        assert not taken.startswith("-")


@given(job_ids)
def test_everything_of_a_job_lies_below_its_directory_or_is_its_record(job_id: int) -> None:
    layout = JobLayout(job_id, Path("/state"))
    parts = (layout.images, layout.containers, layout.private, layout.published)
    assert {path.parent for path in parts} == {layout.directory}
    assert layout.directory == Path(f"/state/jobs/{job_id}")
    assert layout.record == Path(f"/state/records/{job_id}.json")


@given(job_ids)
def test_names_of_devices_are_short_enough_for_the_kernel_and_different(job_id: int) -> None:
    layout = JobLayout(job_id)
    assert len(layout.bridge) <= 15
    assert len(layout.vxlan) <= 15
    assert layout.bridge != layout.vxlan
    assert layout.bridge != JobLayout(job_id % MAX_JOB_ID + 1).bridge
