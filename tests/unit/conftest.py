"""What the unit tests share. They need neither root nor LXC, and leave nothing running."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from oar_lxc.client import node_cache


@pytest.fixture(autouse=True)
def _outside_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the job that the tests themselves may run in."""
    for name in list(os.environ):
        if name.startswith("OAR_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def unused_paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield paths at which there is nothing yet; they cost less than a directory for each test."""
    parent = tmp_path_factory.mktemp("unused")
    return (parent / str(number) for number in count())


@pytest.fixture(autouse=True)
def _other_node_cache(unused_paths: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep where containers were seen away from the home of whoever runs the tests."""
    directory = next(unused_paths)
    monkeypatch.setattr(node_cache, "directory", lambda: str(directory))


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """Return a directory whose name breaks whatever does not quote."""
    path = tmp_path / "a 'b\" $(touch c)\n;%s é"
    path.mkdir()
    return path


@pytest.fixture
def spawn() -> Iterator[Callable[[Sequence[str]], subprocess.Popen[bytes]]]:
    """Return a function that starts a program, which is killed when the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def assert_pid_gone() -> Callable[[int], None]:
    """Return a function that waits a moment for a process to be gone, seen in two ways."""

    def check(pid: int) -> None:
        end = time.monotonic() + 5
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.005)
        assert not _alive(pid), f"process {pid} still runs"

    return check


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie is dead; that its parent has not waited is no fault of what is tested.
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
