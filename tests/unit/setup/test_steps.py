"""A plan applies what is needed, in order, and looks again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oar_lxc.setup.steps import (
    NotYetError,
    SetupError,
    SetupPlan,
    Step,
    StepOutcome,
    StepResult,
    execute,
)


class Switch:
    """Something that a step turns on; a broken one stays off."""

    def __init__(self, on: bool = False, broken: bool = False) -> None:
        self.on, self.broken = on, broken

    def step(self, title: str = "on") -> Step:
        return Step(title, lambda: None if self.on else "turn it on", self.turn_on)

    def turn_on(self) -> None:
        self.on = not self.broken


def outcomes(plan: SetupPlan, dry_run: bool = False) -> list[StepOutcome]:
    told: list[StepResult] = []
    assert execute(plan, told.append, dry_run=dry_run) == told
    return [event.outcome for event in told]


def test_only_what_is_needed_is_applied_and_a_second_run_does_nothing() -> None:
    plan = SetupPlan("role", [Switch(on=True).step(), Switch().step()])
    assert outcomes(plan) == [StepOutcome.TRUE, StepOutcome.CHANGED]
    assert outcomes(plan) == [StepOutcome.TRUE, StepOutcome.TRUE]


def test_a_dry_run_changes_nothing() -> None:
    switch = Switch()
    assert outcomes(SetupPlan("role", [switch.step()]), dry_run=True) == [StepOutcome.WOULD_CHANGE]
    assert not switch.on


def test_a_dry_run_tells_what_depends_on_earlier_steps() -> None:
    def pending() -> str | None:
        raise NotYetError("comes with the package")

    assert outcomes(SetupPlan("role", [Step("later", pending)]), dry_run=True) == [
        StepOutcome.LATER
    ]


def test_what_only_a_person_can_do_stops_the_run_and_not_the_dry_run() -> None:
    switch = Switch()
    plan = SetupPlan("role", [Step("check", lambda: "mount it"), switch.step()])
    expected = [StepOutcome.PROBLEM, StepOutcome.WOULD_CHANGE]
    assert outcomes(plan, dry_run=True) == expected
    with pytest.raises(SetupError, match="mount it"):
        outcomes(plan)
    assert not switch.on


def test_a_step_that_does_not_take_effect_is_an_error() -> None:
    with pytest.raises(SetupError, match="still is not so: turn it on"):
        outcomes(SetupPlan("role", [Switch(broken=True).step()]))


def test_a_step_is_announced_before_it_is_applied_and_for_as_long() -> None:
    switch = Switch()
    announced: list[tuple[str, bool]] = []

    @contextmanager
    def during(step: Step) -> Iterator[None]:
        announced.append((step.title, switch.on))
        yield
        announced.append(("applied", switch.on))

    plan = SetupPlan("role", [switch.step("a title"), Switch(on=True).step("quiet")])
    execute(plan, lambda event: None, during)
    assert announced == [("a title", False), ("applied", True)]
