"""Calls that are given up when their time is over."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.bounded import bounded


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
    monkeypatch.setattr(os, "kill", lambda pid, number: None)  # as in a wait for a dead server
    begin = time.monotonic()
    with pytest.raises(TooLateError):
        bounded(sleep, 0.1, "waiting")
    assert time.monotonic() - begin < 2.5


def test_a_call_that_dies_is_an_error() -> None:
    def die() -> list[str]:
        os._exit(3)

    with pytest.raises(OarLxcError, match="working failed"):
        bounded(die, 10, "working")
