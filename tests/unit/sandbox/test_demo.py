"""The demonstration, where it does not come to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from oar_lxc.linux.run import Result
from oar_lxc.sandbox.cluster import Sandbox
from oar_lxc.sandbox.demo import Demo
from oar_lxc.sandbox.machine import Machine


class Interrupted(Sandbox):
    """A cluster on whose frontend somebody presses Ctrl-C while the job waits."""

    def __init__(self) -> None:
        self.called: list[list[str]] = []

    def machine(self, name: str) -> Machine:
        return Frontend(self.called)


class Frontend(Machine):
    """Takes commands and answers for OAR."""

    def __init__(self, called: list[list[str]]) -> None:
        self.called = called

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        self.called.append([*argv])
        if argv[0] == "oarstat":
            raise KeyboardInterrupt
        return Result(tuple(argv), 0, "OAR_JOB_ID=42\n", "")


@pytest.mark.parametrize("reads", [True, False], ids=["a reader", "no reader"])
def test_who_interrupts_has_no_job_left_and_is_told_so(reads: bool) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        if not reads and "deleted" in text:
            raise BrokenPipeError
        said.append(text)

    sandbox = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        Demo(sandbox, say, lambda titles, rows: None).run()
    assert sandbox.called[-1] == ["oardel", "42"]
    assert said[-1].startswith("job 42 is deleted; the cluster stays up: ") == reads
