"""The steps and plans of a set-up; a step knows whether it is needed, so it may run twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.logger import get_logger

_log = get_logger()


class SetupError(OarLxcError):
    """A machine cannot be set up as it is; the message says what to do."""


class NotYetError(OarLxcError):
    """A step cannot tell what to do before an earlier step is applied."""


@dataclass(frozen=True)
class Step:
    """One condition that the machine must meet.

    Attributes:
        title: the condition, in a few words.
        pending: returns what is left to do, as text for people (a diff for a file); None if the
            condition is met. May raise :class:`NotYetError`.
        apply: makes the condition true. None if only a person can do that; the text of ``pending``
            then says how.
    """

    title: str
    pending: Callable[[], str | None]
    apply: Callable[[], None] | None = None


def all_of(title: str, parts: Callable[[], Sequence[Step]]) -> Step:
    """Make one step of several that are known only once earlier steps are applied.

    Args:
        title: what is true when all of them are applied.
        parts: returns the steps; may raise :class:`NotYetError`.
    """

    def pending() -> str | None:
        return "".join(part.pending() or "" for part in parts()) or None

    def apply() -> None:
        for part in parts():
            if part.apply is not None and part.pending() is not None:
                part.apply()

    return Step(title, pending, apply)


class StepOutcome(Enum):
    """The outcome of a step."""

    TRUE = "ok"
    CHANGED = "changed"
    WOULD_CHANGE = "would change"
    LATER = "later"
    PROBLEM = "problem"


@dataclass(frozen=True)
class StepResult:
    """A step and its outcome; ``detail`` is what changed, or the problem."""

    step: Step
    outcome: StepOutcome
    detail: str = ""


@dataclass
class SetupPlan:
    """The steps that set up a machine in a role, in order.

    Attributes:
        role: the role's name.
        steps: the steps.
        notes: notes for the administrator, shown at the end. Steps may add to them.
    """

    role: str
    steps: Sequence[Step]
    notes: list[str] = field(default_factory=list)


def execute(
    plan: SetupPlan,
    tell: Callable[[StepResult], None],
    during: Callable[[Step], AbstractContextManager[object]] = nullcontext,
    dry_run: bool = False,
) -> list[StepResult]:
    """Apply a plan, or find out what it would change.

    Args:
        plan: the plan.
        tell: called with the outcome of each step.
        during: returns what is entered while a step is applied.
        dry_run: change nothing.

    Returns:
        The outcome of each step.

    Raises:
        SetupError: a step that only a person can do is not done, or a step had no effect. In a dry
            run, the outcome :attr:`StepOutcome.PROBLEM` takes its place.
    """
    events: list[StepResult] = []
    for step in plan.steps:
        event = _preview(step) if dry_run else _make_true(step, during)
        events.append(event)
        tell(event)
    return events


def _preview(step: Step) -> StepResult:
    try:
        detail = step.pending()
    except NotYetError as reason:
        return StepResult(step, StepOutcome.LATER, str(reason))
    except SetupError as problem:
        return StepResult(step, StepOutcome.PROBLEM, str(problem))
    if detail is None:
        return StepResult(step, StepOutcome.TRUE)
    return StepResult(
        step, StepOutcome.WOULD_CHANGE if step.apply else StepOutcome.PROBLEM, detail
    )


def _make_true(step: Step, during: Callable[[Step], AbstractContextManager[object]]) -> StepResult:
    detail = step.pending()
    if detail is None:
        return StepResult(step, StepOutcome.TRUE)
    if step.apply is None:
        raise SetupError(detail)
    with during(step), _log.step(step.title):
        step.apply()
    left = step.pending()
    if left is not None:
        raise SetupError(f"{step.title}: was applied, and still is not so: {left}")
    return StepResult(step, StepOutcome.CHANGED, detail)
