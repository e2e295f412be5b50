"""Watching containers: what is told of them, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oar_lxc.agent import watch
from oar_lxc.model import events
from tests.unit.fakes.runtime import FakeRuntime


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRuntime]:
    monkeypatch.setattr(watch, "INTERVAL", 0.0)
    monkeypatch.setattr(watch, "EACH", 0.0)
    (tmp_path / "containers").mkdir()
    runtime = FakeRuntime(tmp_path / "containers")
    yield runtime
    runtime.close()


def told(
    runtime: FakeRuntime, cgroup: Path, names: list[str], *steps: Callable[[], object]
) -> list[events.Event]:
    """Watch while one step after the other is done; return what is told."""
    told: list[events.Event] = []
    left: list[Callable[[], object]] = [*steps, lambda: None]

    def abandoned() -> bool:
        if left:
            left.pop(0)()
        return not left

    watch.watch(runtime, names, [str(cgroup)], told.append, abandoned)
    return told


def test_each_end_is_told_once_and_one_that_was_started_again_is_watched_on(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.start("vm1")
    assert (
        told(
            runtime,
            tmp_path,
            ["vm1", "vm2"],
            lambda: runtime.kill(["vm1"], 5),
            lambda: None,
            lambda: runtime.start("vm1"),
            lambda: runtime.kill(["vm1"], 5),
        )
        == [events.Stopped("vm1")] * 2
    )


def test_what_was_killed_since_the_last_look_is_told(runtime: FakeRuntime, tmp_path: Path) -> None:
    counter = tmp_path / "vm1/memory.oom_control"
    counter.parent.mkdir()

    def count(number: int) -> Callable[[], object]:
        return lambda: counter.write_text(f"under_oom 0\noom_kill {number}\n")

    count(2)()
    # Fewer, where the cgroup of a service that was counted is gone.
    assert told(runtime, tmp_path, ["vm1"], count(5), count(5), count(1), count(2)) == [
        events.OutOfMemory("vm1", 3),
        events.OutOfMemory("vm1", 1),
    ]
