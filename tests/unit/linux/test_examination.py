"""Looking at processes by a child that is given up: the children are real."""

from __future__ import annotations

import os
import time

import pytest

from oar_lxc.errors import TooLateError
from oar_lxc.linux import examination
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.examination import examine


def test_each_gets_its_answer_of_one_child() -> None:
    answers = list(examine([1, 2, 3], lambda pid: f"{pid} {os.getpid()}"))
    (child,) = {(answer or "").partition(" ")[2] for _, answer in answers}
    assert answers == [(pid, f"{pid} {child}") for pid in (1, 2, 3)]
    assert child != str(os.getpid())


def test_who_keeps_it_waiting_is_not_known_and_the_others_are() -> None:
    def look(pid: int) -> str:
        if pid == 2:
            time.sleep(60)
        return "seen"

    assert dict(examine([1, 2, 3], look)) == {1: "seen", 2: None, 3: "seen"}


def test_where_many_do_the_rest_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PATIENCE", 0.05)
    number = examination.MOST_KEPT

    def look(pid: int) -> str:
        if pid <= number:
            time.sleep(60)
        return "seen"

    pids = range(1, number + 3)
    assert dict(examine(pids, look)) == dict.fromkeys(pids)


def test_one_that_is_busy_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PATIENCE", 0.01)

    def look(pid: int) -> str:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return "seen"

    assert list(examine([1], look)) == [(1, "seen")]


def test_a_look_that_dies_is_not_known() -> None:
    assert list(examine([1, 2], lambda pid: os._exit(1) if pid == 1 else "seen")) == [
        (1, None),
        (2, "seen"),
    ]


def test_where_there_can_be_no_child_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fork)
    before = len(os.listdir("/proc/self/fd"))
    assert list(examine([1, 2], lambda pid: "seen")) == [(1, None), (2, None)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_ends_in_time() -> None:
    with pytest.raises(TooLateError, match="the time was over"):
        list(examine([1], lambda pid: "seen", Deadline.after(0)))
