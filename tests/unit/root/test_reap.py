"""What the reaper does about each job, and what it tells of what it cannot do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.node_log import NodeLog
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

    def destroy(one: Destruction, log: NodeLog, deadline: float) -> Leftovers:
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
    assert [one.action for one in run(judge)] == ["destroyed", "left alone", "destroyed"]
    assert [(one.layout.job_id, one.layer, one.whole) for one in done] == [
        (42, "reaper", True),
        (44, "reaper", True),
    ]


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
