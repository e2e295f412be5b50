"""What `oar-lxc setup` tells of its steps."""

from __future__ import annotations

from functools import partial

import pytest

from oar_lxc.cli import setup
from oar_lxc.cli.shared.meter import Meter
from oar_lxc.setup.steps import SetupError, SetupPlan, Step
from tests.unit.fakes.programs import wait_until


def test_what_is_left_to_a_person_is_told_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [Step("cgroups", lambda: "boot anew"), Step("packages", lambda: None)]
    with pytest.raises(SetupError, match=r"^left to you: 1 of 2 steps$"):
        setup._carry_out(SetupPlan("node", steps), dry_run=True)
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert told == ["problem cgroups", "boot anew", "ok packages"]


def test_a_step_that_lasts_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "Meter", partial(Meter, patience=0.0))
    said: list[str] = []

    def told() -> bool:
        said.append(capsys.readouterr().err)
        return "  … image: 0 s\n" in "".join(said)

    done: list[bool] = []
    step = Step(
        "image", lambda: None if done else "build it", lambda: done.append(wait_until(told))
    )
    setup._carry_out(SetupPlan("node", [step]), dry_run=False)
    assert done == [True]
    assert "".join(said).startswith("  … image\n")
