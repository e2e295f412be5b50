"""Judging which jobs are dead: a job that may live is never touched."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.model.idspans import LOWEST
from oar_lxc.model.layout import MAX_JOB_ID, JobLayout
from oar_lxc.model.placement import SYSTEMD, V1
from oar_lxc.root import liveness, packetfilter
from oar_lxc.root.liveness import Finding, Judge
from oar_lxc.root.placement import Hierarchy
from oar_lxc.root.record import GRACE, Record, read_record, this_boot

ME = pwd.getpwuid(os.getuid()).pw_name
OLD = time.time() - GRACE - 60


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a node that uses cpusets: state, cgroup and net lie in it."""
    for name in ("state/records", "state/jobs", "cgroup/oar", "net"):
        (tmp_path / name).mkdir(parents=True)
    found = [Hierarchy(tmp_path / "cgroup", ("cpuset",), False)]
    monkeypatch.setattr(liveness, "hierarchies", lambda: found)
    monkeypatch.setattr(liveness, "NET", tmp_path / "net")
    monkeypatch.setattr(packetfilter, "jobs", lambda timeout: set())
    return tmp_path


def prepare(
    node: Path, job_id: int = 42, user: str = "alice", created: float = OLD, **record: str
) -> JobLayout:
    layout = JobLayout(job_id, node / "state")
    layout.private.mkdir(parents=True)
    boot = record.get("boot", this_boot())
    oar_cgroup = record.get("oar_cgroup", f"/oar/{user}_{job_id}")
    placement = record.get("placement", V1)
    Record(job_id, user, boot, created, LOWEST, oar_cgroup, placement=placement).write(layout)
    os.utime(layout.directory, (created, created))
    return layout


def find(node: Path) -> list[Finding]:
    return Judge(node / "state").find_jobs()


def test_a_node_without_jobs_has_none(node: Path) -> None:
    assert find(node) == []


def test_a_node_that_was_never_set_up_has_none(node: Path) -> None:
    assert Judge(node / "missing").find_jobs() == []


def test_a_job_whose_cgroup_exists_lives(node: Path) -> None:
    prepare(node)
    (node / "cgroup/oar/alice_42").mkdir()
    assert find(node) == [Finding(42, "alice", False, "OAR's cgroup /oar/alice_42 exists")]


def test_a_job_whose_cgroup_is_gone_is_dead(node: Path) -> None:
    prepare(node)
    (finding,) = find(node)
    assert (finding.job_id, finding.user, finding.dead) == (42, "alice", True)
    assert "OAR's cgroup /oar/alice_42 is gone" in finding.why


@pytest.mark.parametrize("other", ["alice_421", "alice_4", "bob_42", "malice_42"])
def test_the_cgroup_of_another_job_proves_nothing(node: Path, other: str) -> None:
    prepare(node)
    (node / "cgroup/oar" / other).mkdir()
    assert [f.dead for f in find(node)] == [True]


def test_a_job_that_was_prepared_just_now_may_be_starting(node: Path) -> None:
    prepare(node, created=time.time() - 1)
    (finding,) = find(node)
    assert not finding.dead
    assert "it may be starting" in finding.why


def test_a_clock_that_was_set_back_since_holds_nobody_up(node: Path) -> None:
    prepare(node, created=time.time() + 86400)
    prepare(node, 43, created=time.time() + 86400).record.unlink()
    ended = prepare(node, 44)
    found = read_record(ended.record)
    assert found is not None
    found.end(ended, time.time() + 86400)
    (node / "cgroup/oar/alice_44").mkdir()
    assert [finding.dead for finding in find(node)] == [True, True, True]


def test_where_no_cgroups_can_be_seen_nobody_is_taken_for_dead(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(node)
    monkeypatch.setattr(liveness, "hierarchies", list)
    why = "no cgroup file system is mounted: only OAR knows if it lives"
    assert find(node) == [Finding(42, "alice", False, why)]


def test_a_job_of_another_boot_is_dead_whatever_exists(node: Path) -> None:
    prepare(node, created=time.time(), boot="another")
    (node / "cgroup/oar/alice_42").mkdir()
    assert find(node) == [Finding(42, "alice", True, "the node was booted since it was prepared")]


def test_without_a_cpuset_only_oar_knows(node: Path) -> None:
    prepare(node, oar_cgroup="")
    (finding,) = find(node)
    assert not finding.dead
    assert "only OAR knows" in finding.why


def test_without_a_cpuset_a_job_of_another_boot_is_dead(node: Path) -> None:
    prepare(node, oar_cgroup="", boot="another")
    assert [f.dead for f in find(node)] == [True]


def test_the_record_tells_the_age_not_what_came_into_the_directory(node: Path) -> None:
    layout = prepare(node)
    os.utime(layout.directory)
    assert [f.dead for f in find(node)] == [True]


def test_the_record_tells_where_oars_cgroup_is(node: Path) -> None:
    place = "/site/batch/alice_42"
    prepare(node, oar_cgroup=place)
    (node / f"cgroup{place}").mkdir(parents=True)
    assert find(node) == [Finding(42, "alice", False, f"OAR's cgroup {place} exists")]


@pytest.mark.parametrize(("age", "dead"), [(GRACE - 1, False), (GRACE, True)])
def test_the_grace_is_over_when_it_has_passed(
    node: Path, monkeypatch: pytest.MonkeyPatch, age: float, dead: bool
) -> None:
    prepare(node)
    ended(node, 1, job_id=43)
    monkeypatch.setattr(liveness, "_since", lambda then: age)
    assert [f.dead for f in find(node)] == [dead, dead]


@pytest.mark.parametrize("damage", [None, "", "{", '{"job_id": 42}'])
def test_a_lost_record_leaks_nothing(node: Path, damage: str | None) -> None:
    layout = prepare(node, user=ME)
    layout.record.unlink()
    if damage is not None:
        layout.record.write_text(damage)
    (finding,) = find(node)
    assert (finding.user, finding.dead) == (ME, True)
    assert finding.why == f"no record; OAR's cgroup /oar/{ME}_42 is gone"


def test_a_job_of_another_user_with_its_number_is_not_the_one_whose_record_is_lost(
    node: Path,
) -> None:
    prepare(node, user=ME).record.unlink()
    (node / "cgroup/oar/another_42").mkdir()
    assert [f.dead for f in find(node)] == [True]


def test_a_lost_record_harms_no_living_job(node: Path) -> None:
    prepare(node, user=ME).record.unlink()
    (node / f"cgroup/oar/{ME}_42").mkdir()
    assert [f.dead for f in find(node)] == [False]


def test_a_lost_record_harms_no_job_that_is_being_prepared(node: Path) -> None:
    prepare(node, user=ME, created=time.time()).record.unlink()
    assert [f.dead for f in find(node)] == [False]


def test_a_lost_record_proves_nothing_where_oar_uses_no_cpusets(node: Path) -> None:
    prepare(node, user=ME).record.unlink()
    (node / "cgroup/oar").rmdir()
    assert [f.dead for f in find(node)] == [False]


def test_a_device_alone_is_dead_where_no_user_has_a_job_of_its_number(node: Path) -> None:
    (node / "net/olb42").mkdir()
    assert [f.dead for f in find(node)] == [True]
    (node / "cgroup/oar/bob_42").mkdir()
    assert [f.dead for f in find(node)] == [False]


def test_a_device_alone_proves_nothing_without_a_cpuset(node: Path) -> None:
    (node / "net/olb42").mkdir()
    (node / "cgroup/oar").rmdir()
    (finding,) = find(node)
    assert not finding.dead
    assert "only OAR knows" in finding.why


def ended(node: Path, ago: float, job_id: int = 42, oar_cgroup: str | None = None) -> None:
    cgroup = f"/oar/alice_{job_id}" if oar_cgroup is None else oar_cgroup
    layout = prepare(node, job_id, oar_cgroup=cgroup)
    record = read_record(layout.record)
    assert record is not None
    record.end(layout, time.time() - ago)
    (node / f"cgroup/oar/alice_{job_id}").mkdir()


@pytest.mark.parametrize("oar_cgroup", ["", "/oar/alice_42"])
def test_a_job_whose_hook_was_told_of_its_end_long_ago_is_dead(
    node: Path, oar_cgroup: str
) -> None:
    ended(node, GRACE + 1, oar_cgroup=oar_cgroup)
    (finding,) = find(node)
    assert finding.dead
    assert "a hook was told 121 s ago" in finding.why


def test_a_hook_may_still_be_at_work(node: Path) -> None:
    ended(node, 1)
    (finding,) = find(node)
    assert not finding.dead
    assert "may be at work" in finding.why


def test_the_word_of_oar_is_proof_whatever_exists(node: Path) -> None:
    for job_id in (42, 421):
        prepare(node, job_id, oar_cgroup="")
    (node / "cgroup/oar/alice_42").mkdir()
    assert Judge(node / "state", ended=[42]).find_jobs() == [
        Finding(42, "alice", True, "OAR says that it has ended"),
        Finding(421, "alice", False, "OAR's cpuset is off: only OAR knows if it lives"),
    ]


def test_the_word_of_oar_is_too_old_for_a_job_that_has_just_begun(node: Path) -> None:
    prepare(node, created=time.time() - 1)
    (finding,) = Judge(node / "state", ended=[42]).find_jobs()
    assert not finding.dead


def test_the_grace_is_the_administrators(node: Path) -> None:
    prepare(node, created=time.time() - 1)
    assert [f.dead for f in Judge(node / "state", grace=0).find_jobs()] == [True]


def _record(node: Path) -> None:
    Record(42, "alice", "another", OLD, LOWEST, "").write(JobLayout(42, node / "state"))


def _directory(node: Path) -> None:
    JobLayout(42, node / "state").private.mkdir(parents=True)


def _link(node: Path) -> None:
    (node / "net/olv42").mkdir()


def _uplink(node: Path) -> None:
    (node / "net/olu42").mkdir()


def _cgroup(node: Path) -> None:
    (node / "cgroup/oar-lxc/alice_42").mkdir(parents=True)


@pytest.mark.parametrize("make", [_record, _directory, _link, _uplink, _cgroup])
def test_each_trace_alone_leads_to_the_job(node: Path, make: Callable[[Path], None]) -> None:
    make(node)
    assert [f.job_id for f in find(node)] == [42]


def test_an_element_of_the_packet_filter_alone_leads_to_the_job(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packetfilter, "jobs", lambda timeout: {42})
    assert [(f.job_id, f.user, f.dead) for f in find(node)] == [(42, "", True)]


def test_a_packet_filter_that_cannot_be_read_hides_no_other_job_and_is_told(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(timeout: float) -> set[int]:
        raise OarLxcError("nft is not there")

    monkeypatch.setattr(packetfilter, "jobs", fail)
    prepare(node)
    judge = Judge(node / "state")
    assert [f.job_id for f in judge.find_jobs()] == [42]
    assert judge.unknown == ["the packet filter cannot be read: nft is not there"]


@pytest.mark.parametrize("job_id", [1, MAX_JOB_ID])
@pytest.mark.parametrize("name", ["state/jobs/{}", "net/olb{}", "cgroup/oar-lxc/alice_{}"])
def test_the_first_and_the_last_number_are_those_of_jobs(
    node: Path, job_id: int, name: str
) -> None:
    (node / name.format(job_id)).mkdir(parents=True)
    assert [f.job_id for f in find(node)] == [job_id]


def test_the_cgroup_alone_tells_the_user(node: Path) -> None:
    (node / "cgroup/oar-lxc/a_b_42").mkdir(parents=True)
    assert [(f.job_id, f.user) for f in find(node)] == [(42, "a_b")]


@pytest.mark.parametrize(
    "path",
    [
        "state/records/x.json",
        "state/records/.42.json.99",
        "state/records/0.json",
        "state/records/99999999999.json",
        "state/records/42.json.old",
        "state/jobs/x42",
        "state/jobs/42x",
        "net/lxcbr0",
        "net/olbx",
        "net/olb99999999999",
        "net/xolb42",
        "cgroup/oar-lxc/alice",
        "cgroup/oar-lxc/_42",
    ],
)
def test_what_is_not_a_jobs_is_not_taken_for_one(node: Path, path: str) -> None:
    (node / path).mkdir(parents=True)
    assert find(node) == []


def test_jobs_are_told_apart_by_their_whole_id(node: Path) -> None:
    prepare(node, 12)
    prepare(node, 123)
    (node / "cgroup/oar/alice_123").mkdir()
    assert {f.job_id: f.dead for f in find(node)} == {12: True, 123: False}


def test_a_running_job_on_a_node_with_version_2_lives(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_path = node / "unified/oar.slice/oar-u1000.slice/oar-u1000-j42.slice"
    slice_path.mkdir(parents=True)
    (node / "unified/cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = [Hierarchy(node / "unified", (), True)]
    monkeypatch.setattr(liveness, "hierarchies", lambda: found)
    layout = prepare(node, placement=SYSTEMD)
    why = "OAR's slice oar-u*-j42.slice exists"
    assert find(node) == [Finding(42, "alice", False, why)]
    prepare(node, 43)  # an older version's record names no way
    assert [finding.dead for finding in find(node)] == [False, False]
    layout.record.unlink()
    assert [finding.dead for finding in find(node)] == [False, False]
    slice_path.rmdir()
    assert [finding.dead for finding in find(node)] == [True, False]


@pytest.mark.parametrize("in_cpuset", [True, False])
def test_a_way_that_only_a_newer_version_knows_is_not_judged(node: Path, in_cpuset: bool) -> None:
    prepare(node, placement="v3", oar_cgroup="/oar/alice_42" if in_cpuset else "")
    (finding,) = find(node)
    assert not finding.dead
    assert finding.why == (
        "OAR placed it as 'v3', which this version does not know: only OAR knows if it lives"
    )
