"""The contract of the door to LXC, for the fake runtime that the other unit tests rely on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_lxc.container import LOG_TAIL, LxcRuntime
from oar_lxc.errors import OarLxcError
from tests.unit.fakes import FakeRuntime
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


@pytest.mark.usefixtures("_any_bindings")
def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert LxcRuntime(tmp_path).log_tail("vm1") == []
