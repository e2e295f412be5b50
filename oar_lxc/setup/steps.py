"""What a set-up is made of: steps that know whether they are needed, so that all may run twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from oar_lxc.errors import OarLxcError


class SetupError(OarLxcError):
    """A machine cannot be set up as it is; the message says what to do."""


class NotYetError(OarLxcError):
    """A step cannot tell what it has to do before an earlier one was applied."""


@dataclass(frozen=True)
class Step:
    """One thing that has to be true of the machine.

    Attributes:
        title: what is true once it is applied, in a few words.
        pending: what is left to do, for people (a diff where it is a file); None where it is
            true already. May raise :class:`NotYetError`.
        apply: make it true; None for what only a person can do, then what ``pending`` returns
            says how.
    """

    title: str
    pending: Callable[[], str | None]
    apply: Callable[[], None] | None = None


class Outcome(Enum):
    """How a step went."""

    TRUE = "ok"
    CHANGED = "changed"
    WOULD_CHANGE = "would change"
    LATER = "later"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Event:
    """A step and how it went; ``detail`` is what changed, or the problem."""

    step: Step
    outcome: Outcome
    detail: str = ""


@dataclass
class Plan:
    """The steps that set a machine up in a role, in order.

    Attributes:
        role: the role's name.
        steps: what has to be true.
        notes: what the administrator should know or do, told at the end. Steps may add to it.
    """

    role: str
    steps: Sequence[Step]
    notes: list[str] = field(default_factory=list)


def execute(
    plan: Plan,
    tell: Callable[[Event], None],
    begin: Callable[[Step], None] = lambda step: None,
    dry_run: bool = False,
) -> list[Event]:
    """Make a plan true, or find out what that would change.

    Args:
        plan: what has to be true.
        tell: is told how each step went.
        begin: is told of a step before it is applied.
        dry_run: change nothing.

    Returns:
        How each step went.

    Raises:
        SetupError: a step only a person can do is not done, or one did not take effect. Not in a
            dry run: there it is a :attr:`Outcome.PROBLEM`.
    """
    events: list[Event] = []
    for step in plan.steps:
        event = _preview(step) if dry_run else _make_true(step, begin)
        events.append(event)
        tell(event)
    return events


def _preview(step: Step) -> Event:
    try:
        detail = step.pending()
    except NotYetError as reason:
        return Event(step, Outcome.LATER, str(reason))
    except SetupError as problem:
        return Event(step, Outcome.PROBLEM, str(problem))
    if detail is None:
        return Event(step, Outcome.TRUE)
    return Event(step, Outcome.WOULD_CHANGE if step.apply else Outcome.PROBLEM, detail)


def _make_true(step: Step, begin: Callable[[Step], None]) -> Event:
    detail = step.pending()
    if detail is None:
        return Event(step, Outcome.TRUE)
    if step.apply is None:
        raise SetupError(detail)
    begin(step)
    step.apply()
    left = step.pending()
    if left is not None:
        raise SetupError(f"{step.title}: was applied, and still is not so: {left}")
    return Event(step, Outcome.CHANGED, detail)
