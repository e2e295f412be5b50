"""What the reaper does about each job, and what it tells of what it cannot do."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.node_log import NodeLog
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.reaped import Reaped
from oar_lxc.root import reap as reaper
from oar_lxc.root.destroy import Destruction
from oar_lxc.root.leftovers import Leftovers
from oar_lxc.root.liveness import Finding, Judge
from oar_lxc.root.reap import preview, reap
from oar_lxc.root.record import GRACE
from tests.unit.fakes.programs import add_program, recorded

FOUND = [
    Finding(42, "alice", True, "OAR's cgroup /oar/alice_42 is gone"),
    Finding(43, "bob", False, "OAR's cgroup /oar/bob_43 exists"),
    Finding(44, "", True, "the node was booted since it was prepared"),
]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return a judge with findings of three jobs, on a node with OAR's node check."""
    for name in ("records", "trash"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Judge, "find_jobs", lambda judge: list(FOUND))
    add_program(tmp_path, "check", f'printf "%s\\0" "$#" "$@" >> "{tmp_path}/checks"')
    monkeypatch.setattr(reaper, "NODE_CHECK", tmp_path / "check")
    return Judge(tmp_path)


def with_result(
    monkeypatch: pytest.MonkeyPatch, result: Leftovers | Exception
) -> list[Destruction]:
    done: list[Destruction] = []

    def destroy(one: Destruction, log: NodeLog, deadline: Deadline) -> Leftovers:
        assert log.bound == {"job": one.layout.job_id}
        assert 0 < deadline.timeout() <= 5
        done.append(one)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(Destruction, "run", destroy)
    return done


def run(judge: Judge) -> list[Reaped]:
    return list(reap(judge, NodeLog(judge.state / "log"), 5))


def test_a_preview_tells_and_destroys_nothing(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = with_result(monkeypatch, Leftovers())
    assert [str(one) for one in preview(judge)] == [
        "would destroy: job 42 of alice: OAR's cgroup /oar/alice_42 is gone",
        "left alone: job 43 of bob: OAR's cgroup /oar/bob_43 exists",
        "would destroy: job 44 of unknown: the node was booted since it was prepared",
    ]
    assert done == []


def test_the_dead_are_destroyed_whole_and_the_living_left_alone(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = with_result(monkeypatch, Leftovers())
    monkeypatch.setattr(reaper, "job_uid", lambda layout, user: {"alice": 2001}.get(user, -1))
    assert run(judge) == [
        Reaped(found.job_id, found.user, "destroyed" if found.dead else "left alone", found.why)
        for found in FOUND
    ]
    assert done == [
        Destruction(JobLayout(job, judge.state), user, uid, layer="reaper", whole=True)
        for job, user, uid in ((42, "alice", 2001), (44, "", -1))
    ]


def test_the_log_tells_which_job_was_reaped_and_why(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_result(monkeypatch, Leftovers())
    run(judge)
    lines = [json.loads(line) for line in (judge.state / "log").read_text().splitlines()]
    reaped = [(line["job"], line["why"]) for line in lines if line["event"] == "reap"]
    assert reaped == [(found.job_id, found.why) for found in FOUND if found.dead]
    steps = [line["step"] for line in lines if line["event"] == "step done"]
    assert steps == ["trash", "half written", "report"]


@pytest.mark.parametrize("error", [OSError("full"), OarLxcError("busy")])
@pytest.mark.parametrize("step", ["_empty_trash", "_forget_half_written"])
def test_a_step_that_fails_keeps_none_of_the_others_from_being_done(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    with_result(monkeypatch, Leftovers(links=["olb42"]))
    monkeypatch.setattr(reaper, step, fail)
    assert len(run(judge)) == len(FOUND)
    assert (judge.state / "stuck").stat().st_mode & 0o777 == 0o644


def test_processes_that_cannot_be_resumed_keep_no_job_from_being_reaped(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(log: NodeLog) -> None:
        assert isinstance(log, NodeLog)
        raise OSError("no")

    with_result(monkeypatch, Leftovers())
    monkeypatch.setattr(reaper, "resume_stopped", fail)
    assert len(run(judge)) == len(FOUND)


def test_trash_that_stays_keeps_no_other_from_being_removed(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_result(monkeypatch, Leftovers())
    for name in ("42-1", "43-1"):
        (judge.state / "trash" / name).mkdir()
    removed: list[str] = []

    def remove(path: Path, timeout: float) -> None:
        removed.append(path.name)
        raise OarLxcError("it stays")

    monkeypatch.setattr(reaper, "remove_tree", remove)
    run(judge)
    assert sorted(removed) == ["42-1", "43-1"]


def test_a_node_check_that_fails_is_no_failure(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_result(monkeypatch, Leftovers())
    add_program(judge.state, "check", "exit 1")
    assert len(run(judge)) == len(FOUND)


@pytest.mark.parametrize("result", [Leftovers(links=["olb42"]), OarLxcError("olb42 stays")])
def test_what_cannot_be_destroyed_is_told_to_the_node_check_until_it_is_gone(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, result: Leftovers | Exception
) -> None:
    with_result(monkeypatch, result)
    assert [one.action for one in run(judge)] == ["failed", "left alone", "failed"]
    stuck = (judge.state / "stuck").read_text()
    assert stuck.startswith("failed: job 42 of alice: OAR's cgroup /oar/alice_42 is gone; left: ")
    assert stuck.count("olb42") == stuck.count("\n") == 2
    with_result(monkeypatch, Leftovers())
    run(judge)
    assert not (judge.state / "stuck").exists()
    assert recorded(judge.state / "checks") == [[], []]


def test_litter_that_takes_too_long_is_not_told_to_the_node_check(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_result(monkeypatch, Leftovers(litter=["the time was over"]))
    assert [one.action for one in run(judge)] == ["failed", "left alone", "failed"]
    assert not (judge.state / "stuck").exists()


def test_the_trash_is_emptied(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    with_result(monkeypatch, Leftovers())
    (judge.state / "trash/42-1/deep").mkdir(parents=True)
    (judge.state / "trash/what").touch()
    run(judge)
    assert os.listdir(judge.state / "trash") == []


def test_half_written_records_are_forgotten_when_they_are_old(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_result(monkeypatch, Leftovers())
    for number, age in ((1, GRACE + 1), (2, 0)):
        path = judge.state / f"records/.{number}.json.oar-lxc"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    run(judge)
    assert os.listdir(judge.state / "records") == [".2.json.oar-lxc"]
