"""Calls that are given up when their time is over."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.bounded import bounded
from tests.unit.fakes.programs import alive, wait_until


def test_what_a_call_returns_comes_back_however_long() -> None:
    assert bounded(lambda: ["é" * 100_000, ""], 10, "working") == ["é" * 100_000, ""]


def test_what_a_call_raises_comes_back() -> None:
    def fail() -> list[str]:
        raise OarLxcError("it cannot be")

    with pytest.raises(OarLxcError, match="it cannot be"):
        bounded(fail, 10, "working")


def test_a_call_that_blocks_is_given_up_and_leaves_no_process() -> None:
    def block() -> list[str]:
        time.sleep(60)
        return []

    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    begin = time.monotonic()
    with pytest.raises(TooLateError, match=r"resolving names took longer than 0\.1 s"):
        bounded(block, 0.1, "resolving names")
    assert time.monotonic() - begin < 30
    assert children.read_text() == before


def test_a_child_that_the_kernel_does_not_let_die_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sleep() -> list[str]:
        time.sleep(3)
        return []

    monkeypatch.setattr("oar_lxc.linux.bounded.PATIENCE", 0.1)
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)  # as in a wait for a dead server
    begin = time.monotonic()
    with pytest.raises(TooLateError):
        bounded(sleep, 0.1, "waiting")
    assert time.monotonic() - begin < 2.5


def test_a_call_that_dies_is_an_error() -> None:
    def die() -> list[str]:
        os._exit(3)

    with pytest.raises(OarLxcError, match="working failed"):
        bounded(die, 10, "working")


def test_a_child_keeps_no_lock_and_no_stream_of_its_parents(tmp_path: Path) -> None:
    """The kernel may not let it die; a lock must not stay locked, nor OAR wait for a pipe."""

    def see() -> list[str]:
        places = (Path(f"/proc/self/fd/{fd}") for fd in range(256))
        return [str(place.readlink()) for place in places if place.is_symlink()]

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        *null, answer = bounded(see, 10, "looking")
    assert null == [os.devnull] * 3
    assert answer.startswith("pipe:")


def test_what_a_call_has_started_dies_with_it(tmp_path: Path) -> None:
    def start() -> list[str]:
        child = os.fork()
        if child == 0:
            time.sleep(60)
        (tmp_path / "pid").write_text(str(child))
        time.sleep(60)
        return []

    with pytest.raises(TooLateError):
        bounded(start, 0.5, "starting")
    assert wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))
