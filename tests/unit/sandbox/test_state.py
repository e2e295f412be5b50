"""What the sandbox keeps on the host, and who may change it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from oar_lxc.errors import UsageError
from oar_lxc.sandbox.state import SandboxError, Settings, State, locked, recommended

Spawn = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]

HOLD = """
import pathlib, sys, time
from oar_lxc.sandbox.state import locked
with locked("test", locks=pathlib.Path(sys.argv[1])):
    pathlib.Path(sys.argv[1], "held").touch()
    time.sleep(60)
"""


def test_settings_survive(tmp_path: Path) -> None:
    state = State(tmp_path / "state", tmp_path)
    assert state.settings() is None
    state.claim()
    state.keep(Settings(nodes=3, cores=1, cpuset=False))
    assert State(tmp_path / "state", tmp_path).settings() == Settings(3, 1, cpuset=False)


def test_settings_of_another_version_count_as_none(tmp_path: Path) -> None:
    state = State(tmp_path, tmp_path)
    state.write("settings", {"nodes": 2, "unknown": 1})
    assert state.settings() is None
    (tmp_path / "settings.json").write_text("half a fi")
    assert state.settings() is None


def test_more_cores_than_cpus_are_refused() -> None:
    Settings(cores=1).check()
    with pytest.raises(UsageError, match=r"this machine has \d+ CPUs"):
        Settings(cores=(os.cpu_count() or 1) + 1).check()
    with pytest.raises(UsageError, match="0 nodes"):
        Settings(nodes=0).check()
    with pytest.raises(UsageError, match="suite 'sid' is none of bookworm, trixie"):
        Settings(suite="sid").check()


def test_settings_from_before_there_were_suites_are_of_the_first(tmp_path: Path) -> None:
    state = State(tmp_path, tmp_path)
    state.write("settings", {"nodes": 3, "cores": 1, "cpuset": False, "stanza": True})
    assert state.settings() == Settings(3, 1, cpuset=False, suite="bookworm")


@pytest.mark.parametrize(
    ("version", "suite", "wanted"),
    [
        (1, None, Settings(suite="bookworm")),
        (2, None, Settings(suite="trixie")),
        (1, "trixie", Settings(suite="trixie", cpuset=False)),
        (2, "bookworm", Settings(suite="bookworm")),
    ],
)
def test_the_suite_fits_the_host_unless_another_one_is_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    suite: str | None,
    wanted: Settings,
) -> None:
    monkeypatch.setattr("oar_lxc.sandbox.state.cgroup_version", lambda: version)
    state = State(tmp_path, tmp_path)
    assert recommended(state, suite) == wanted
    state.keep(Settings(nodes=3, suite="bookworm"))
    assert recommended(state) == Settings(nodes=3, suite="bookworm")


def test_a_second_checkout_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    State(tmp_path / "state", first).claim()
    State(tmp_path / "state", first).claim()
    with pytest.raises(SandboxError, match=str(first)):
        State(tmp_path / "state", second).check_owner()
    assert State(tmp_path / "state", second).is_anothers
    assert not State(tmp_path / "state", first).is_anothers


def test_a_checkout_that_was_removed_does_not_keep_its_sandbox(tmp_path: Path) -> None:
    State(tmp_path / "state", tmp_path / "gone").claim()
    State(tmp_path / "state", tmp_path).check_owner()


def test_two_sandboxes_have_different_names_on_the_host(tmp_path: Path) -> None:
    tags = {State(tmp_path / name).tag for name in ("one", "two")}
    assert len(tags) == 2
    assert all(len(tag) <= 15 for tag in tags)  # they name links


def test_a_lock_leaves_no_file(tmp_path: Path) -> None:
    with locked("test", locks=tmp_path):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_held_lock_is_refused_and_free_when_its_holder_was_killed(
    tmp_path: Path, spawn: Spawn
) -> None:
    holder = spawn([sys.executable, "-c", HOLD, str(tmp_path)])
    deadline = time.monotonic() + 20
    while not (tmp_path / "held").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with (
        pytest.raises(SandboxError, match="another command"),
        locked("test", wait=False, locks=tmp_path),
    ):
        pytest.fail("the lock was given twice")
    holder.kill()
    holder.wait()
    with locked("test", wait=False, locks=tmp_path):
        pass
