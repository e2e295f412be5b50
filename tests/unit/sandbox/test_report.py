"""What is told while the cluster is brought up, and how soon that ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from oar_lxc.errors import CommandError
from oar_lxc.linux.run import Result, run
from oar_lxc.sandbox.cluster import Sandbox, _pool
from oar_lxc.sandbox.machine import Machine
from oar_lxc.sandbox.report import Report
from tests.unit.fakes.programs import wait_until


def test_what_goes_on_is_told_until_it_is_done_or_has_failed() -> None:
    said: list[str] = []
    report = Report(said.append)
    with report.step("building: base"), pytest.raises(ValueError, match="no"):  # noqa: PT012
        with report.step("building: layer"):
            assert report.going_on() == "building: base, building: layer"
            raise ValueError("no")
        raise AssertionError
    assert report.going_on() == ""
    assert [line.split("  ")[-1] for line in said[:2]] == ["building: base …", "building: layer …"]


def test_a_machine_that_is_set_up_is_named_once() -> None:
    class Server:
        name = "server"

        def run(self, argv: Sequence[str], **options: object) -> Result:
            return Result(tuple(argv), 0, "  ok  step\nserver: 1 of 2 steps changed, 0.1 s\n", "")

        def mark_ready(self) -> None:
            """Note nothing."""

    said: list[str] = []
    Sandbox(say=said.append)._set_up(cast("Machine", Server()), ["server"])
    assert [line.split("  ")[-1] for line in said] == ["server: 1 of 2 steps changed, 0.1 s"]


def test_who_interrupts_waits_for_no_program(tmp_path: Path) -> None:
    """Nor for those that were to follow."""

    def work() -> None:
        (tmp_path / "begun").touch()
        run(["sleep", "1000"], timeout=1000)
        (tmp_path / "next").touch()

    with pytest.raises(KeyboardInterrupt), _pool(1) as pool:  # noqa: PT012
        first, second = pool.submit(work), pool.submit(work)
        assert wait_until((tmp_path / "begun").exists)
        raise KeyboardInterrupt
    assert isinstance(first.exception(), CommandError)
    assert second.cancelled()
    assert not (tmp_path / "next").exists()
