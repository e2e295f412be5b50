"""What the root side publishes and the user side reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import NodeNotPreparedError
from oar_lxc.model.placement import NONE, SYSTEMD, V1
from oar_lxc.model.published import READY, REFUSED, PublishedJob, read_published
from tests.unit.strategies import job_ids, nodes, users

jobs = st.builds(
    PublishedJob,
    job_id=job_ids,
    user=users,
    node=nodes,
    nodes=st.lists(nodes, max_size=4).map(tuple),
    state=st.sampled_from([READY, REFUSED]),
    reason=st.text(),
    first_id=st.integers(0, 2**31),
    cgroups=st.lists(st.text(), max_size=3).map(tuple),
    placement=st.sampled_from([V1, SYSTEMD, NONE]),
    in_cpuset=st.booleans(),
    namespaces=st.booleans(),
)


@given(jobs)
def test_a_published_job_is_read_as_it_was_written(job: PublishedJob) -> None:
    assert PublishedJob.from_json(job.to_json()) == job


def test_a_ready_node_is_read(tmp_path: Path) -> None:
    job = PublishedJob(42, "alice", "node1", ("node1",), READY, first_id=7, namespaces=True)
    (tmp_path / "job.json").write_text(job.to_json())
    assert read_published(tmp_path / "job.json", 42, "node1") == job


def test_a_node_that_is_not_prepared_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NodeNotPreparedError) as caught:
        read_published(tmp_path / "job.json", 42, "node1")
    assert str(caught.value) == (
        "node node1 is not prepared for job 42: submit the job with `-t lxc`; if it was, ask the "
        "administrator whether the hooks of oar-lxc are installed on node1"
    )


def test_a_node_that_an_older_version_prepared_is_one_sentence(tmp_path: Path) -> None:
    job = PublishedJob(42, "alice", "node1", ("node1",), READY, first_id=7)
    text = job.to_json().replace(' "namespaces": false,\n', "")
    assert "namespaces" not in text
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(NodeNotPreparedError) as caught:
        read_published(tmp_path / "job.json", 42, "node1")
    assert str(caught.value) == (
        "node node1 was prepared for job 42 by an older version of oar-lxc, which was upgraded "
        "since: submit the job again"
    )


def test_a_refusal_is_told(tmp_path: Path) -> None:
    job = PublishedJob(42, "alice", "node1", ("node1",), REFUSED, "its network is held by eth9")
    (tmp_path / "job.json").write_text(job.to_json())
    with pytest.raises(NodeNotPreparedError) as caught:
        read_published(tmp_path / "job.json", 42, "node1")
    assert str(caught.value) == "node node1 refused job 42: its network is held by eth9"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", "\N{REPLACEMENT CHARACTER}", '{"job_id": 1}'),
        *('{"nodes": 1, "cgroups": []}', '{"nodes": [], "cgroups": [], "unknown": 1}'),
    ],
)
def test_damaged_text_is_one_sentence_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    with pytest.raises(
        NodeNotPreparedError, match=r"node node1: cannot read .*job.json: "
    ) as caught:
        read_published(path, 42, "node1")
    assert "\n" not in str(caught.value)


@given(st.binary())
def test_any_content_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(content)
    with pytest.raises(NodeNotPreparedError):
        read_published(path, 42, "node1")


def test_a_placement_of_a_newer_version_is_one_sentence(tmp_path: Path) -> None:
    job = PublishedJob(42, "alice", "node1", ("node1",), READY, namespaces=True, placement="v3")
    (tmp_path / "job.json").write_text(job.to_json())
    with pytest.raises(NodeNotPreparedError) as caught:
        read_published(tmp_path / "job.json", 42, "node1")
    assert str(caught.value) == (
        "node node1 was prepared for job 42 by another version of oar-lxc, which found it "
        "placed as 'v3': submit the job again"
    )
