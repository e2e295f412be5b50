"""Two things at once, and what becomes of it where one fails."""

from __future__ import annotations

import threading

import pytest

from oar_lxc.linux.background import in_background


def test_both_run_at_once_and_the_block_ends_after_both() -> None:
    block, thread = threading.Event(), threading.Event()

    def act() -> None:
        assert block.wait(10)
        thread.set()

    with in_background(act) as over:
        assert not over.is_set()
        block.set()
    assert thread.is_set()
    assert over.is_set()


def test_what_it_raises_is_raised_after_the_block() -> None:
    def act() -> None:
        raise OSError("no such device")

    done = False
    with pytest.raises(OSError, match="no such device"), in_background(act):
        done = True
    assert done


def test_what_the_block_raises_is_raised_and_nothing_goes_on() -> None:
    end = threading.Event()
    overs: list[threading.Event] = []

    def block() -> None:
        with in_background(lambda: end.wait(10)) as over:
            overs.append(over)
            end.set()
            raise ValueError("block")

    with pytest.raises(ValueError, match="block"):
        block()
    assert overs[0].is_set()


def test_without_room_for_a_thread_it_is_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    done: list[int] = []
    with in_background(lambda: done.append(1)) as over:
        assert done == [1]
        assert over.is_set()
