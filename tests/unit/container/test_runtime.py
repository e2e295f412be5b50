"""The contract of the runtime, for the fake runtime that the other unit tests rely on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oar_lxc.container.runtime import LOG_TAIL, LxcRuntime, LxcStarter, Started, log_size, why_full
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.run import running
from tests.unit.fakes.programs import wait_until
from tests.unit.fakes.runtime import FakeRuntime
from tests.unit.runtime_contract import Containers, RuntimeContract


class TestFakeRuntime(RuntimeContract):
    @pytest.fixture
    def containers(self, tmp_path: Path) -> Iterator[Containers]:
        directory = tmp_path / "containers"
        for name in ("a", "b", "broken"):
            (directory / name).mkdir(parents=True)
            (directory / name / "config").touch()
        (directory / "no-config").mkdir()
        runtime = FakeRuntime(directory, "node1", broken={"broken": ["lxc: no such rootfs"]})
        yield Containers(
            runtime,
            lambda pid: os.waitpid(pid, 0)[1],
            lambda: FakeRuntime(tmp_path / "missing", "node1"),
        )
        runtime.close()


@pytest.fixture
def _any_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lxc", sys)


def test_missing_bindings_are_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lxc", None)
    with pytest.raises(OarLxcError, match="apt-get install python3-lxc"):
        LxcRuntime(tmp_path)


@pytest.mark.usefixtures("_any_bindings")
def test_the_end_of_the_log_comes_without_time_stamps(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    lines = [
        f"lxc-start vm1 20240229101112.345 WARN conf - conf.c:1 - line {i}" for i in range(20)
    ]
    lines.append("vm1 20240229101112.346 ERROR start - start.c:2 - no init")
    (tmp_path / "vm1/lxc.log").write_text("\n".join(lines) + "\n")
    tail = LxcRuntime(tmp_path).log_tail("vm1")
    assert len(tail) == LOG_TAIL
    assert tail[0] == f"WARN conf - conf.c:1 - line {21 - LOG_TAIL}"
    assert tail[-1] == "ERROR start - start.c:2 - no init"


@pytest.mark.usefixtures("_any_bindings")
def test_a_log_with_any_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    (tmp_path / "vm1/lxc.log").write_bytes(b"vm1 20240229101112.346 ERROR \xff\xfe\n")
    assert LxcRuntime(tmp_path).log_tail("vm1") == ["ERROR \ufffd\ufffd"]


FULL = "ERROR attach - attach.c:1 - Resource temporarily unavailable - Failed to clone attached\n"


@pytest.mark.parametrize(
    ("before", "after", "limit", "told"),
    [
        ("", FULL, 8, True),
        ("x\n", FULL, 8, True),
        (FULL, "", 8, False),  # it was another command that found no room
        (FULL, "ERROR attach - attach.c:2 - No such process\n", 8, False),
        ("", FULL, 0, False),  # it is the job or the node that has none left
    ],
)
def test_that_a_limit_leaves_no_room_is_read_from_the_log_and_the_plan(
    tmp_path: Path, before: str, after: str, limit: int, told: bool
) -> None:
    (tmp_path / "container.json").write_text(json.dumps({"processes": limit}))
    (tmp_path / "lxc.log").write_text(before)
    written = log_size(tmp_path)
    with (tmp_path / "lxc.log").open("a") as log:
        log.write(after)
    sentence = f"processes is {limit}, which leaves no room for a command: "
    assert why_full(tmp_path, written).startswith(sentence if told else "")
    assert bool(why_full(tmp_path, written)) == told


def test_a_container_without_a_log_is_not_full(tmp_path: Path) -> None:
    assert why_full(tmp_path, log_size(tmp_path)) == ""


@contextmanager
def starter(tmp_path: Path, script: str) -> Iterator[LxcStarter]:
    """Give a starter whose program is a shell's."""

    def error(name: str, reason: str) -> ContainerError:
        return ContainerError(name, "node1", reason)

    for name in ("vm1", "vm2", "vm3"):
        (tmp_path / name).mkdir()
    with running(["sh", "-c", script]) as program:
        yield LxcStarter(program, tmp_path, error)


def test_a_starter_tells_what_is_known_and_waits_for_the_rest_alone(tmp_path: Path) -> None:
    script = f"""
    read -r name path; echo "$name 0.5 7"
    read -r name path; touch {tmp_path}/read
    while [ ! -e {tmp_path}/go ]; do sleep 0.01; done
    echo "$name 0.1 -1"; read -r name path && echo "$name 0.2 8"
    """
    with starter(tmp_path, script) as started:
        assert list(started.finished()) == []
        started.send(["vm1", "vm2"])
        assert wait_until((tmp_path / "read").exists)
        assert list(started.finished()) == [Started("vm1", 7, 0.5)]
        assert list(started.finished()) == []
        started.send(["vm3"])
        (tmp_path / "go").touch()
        failed, last = started.rest()
    assert str(failed) == "container vm2 on node node1: LXC could not start it"
    assert last == Started("vm3", 8, 0.2)


def test_what_a_starter_did_not_come_to_has_failed(tmp_path: Path) -> None:
    with starter(tmp_path, 'read -r name path; echo "$name 0.5 7"; kill -9 $$') as started:
        started.send(["vm1", "vm2"])
        one, other = started.rest()
        assert one == Started("vm1", 7, 0.5)
        assert "vm2 on node node1: it was not started: what starts" in str(other)


def test_a_starter_that_is_closed_has_ended_what_it_began(tmp_path: Path) -> None:
    script = f"while read -r name path; do sleep 0.2; touch {tmp_path}/$name.began; done"
    with starter(tmp_path, script) as started:
        started.send(["vm1"])
        started.close()
        assert (tmp_path / "vm1.began").exists()


@pytest.mark.usefixtures("_any_bindings")
def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert LxcRuntime(tmp_path).log_tail("vm1") == []
