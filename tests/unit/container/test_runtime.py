"""The contract of the runtime, for the fake runtime that the other unit tests rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
            boot=False,
        )
        runtime.close()
