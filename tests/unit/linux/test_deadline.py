"""Deadlines, on a clock that the tests move."""

from __future__ import annotations

import time

import pytest

from oar_lxc.linux.deadline import NEVER, Deadline


class Clock:
    """Stands for :func:`time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the deadlines read."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_the_time_that_is_left_shrinks_to_nothing(clock: Clock) -> None:
    end = Deadline.after(8)
    assert (end.left(), end.timeout(), end.passed) == (8, 8, False)
    clock.now += 7.96875
    assert (end.left(), end.timeout(), end.passed) == (0.03125, 0.1, False)
    clock.now += 0.03125
    assert (end.left(), end.timeout(), end.passed) == (0, 0.1, True)
    clock.now += 100
    assert (end.left(), end.timeout(), end.passed) == (0, 0.1, True)


def test_no_time_is_over_at_once(clock: Clock) -> None:
    assert Deadline.after(0).passed


def test_a_part_is_one_of_the_time_that_is_left(clock: Clock) -> None:
    end = Deadline.after(8)
    clock.now += 4
    part = end.part(0.25)
    assert part.left() == 1
    clock.now += 100
    assert end.part(0.25).passed
    assert end.part(0.25).left() == 0  # not before now


def test_the_earlier_of_two_moments_counts(clock: Clock) -> None:
    end = Deadline.after(8)
    assert end.within(3).left() == 3
    assert end.within(30).left() == 8


def test_what_never_comes_leaves_all_time(clock: Clock) -> None:
    assert not NEVER.passed
    assert NEVER.left() == NEVER.timeout() == NEVER.part(0.5).left() == float("inf")
    assert NEVER.within(3).left() == 3
