"""The faults that the matrix knows, each with how it is made and what to expect of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.matrix.row import Row

Act = Callable[["Row"], None]
DEFAULT_SETUPS = ("stanza", "no-cpuset")
ALL_SETUPS = ("stanza", "hooks", "no-cpuset")
MODULES = ("ends", "kills", "containers", "records", "namespaces", "hooks", "machines")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: what it is called on the command line.
        text: what happens, for the table.
        act: makes it happen, and looks that it did.
        setups: in which set-ups it makes sense.
        short: whether it is one of the few that run at every change.
        soak: whether it is safe while other jobs run and have faults of their own.
        away: nodes that it takes away: no bystander can be there.
        suspects: why OAR suspects nodes although they are clean; empty where it must not.
        patience: seconds that OAR and the clean-up may take together.
    """

    name: str
    text: str
    act: Act
    setups: tuple[str, ...] = DEFAULT_SETUPS
    short: bool = False
    soak: bool = False
    away: tuple[str, ...] = ()
    suspects: str = ""
    patience: float = 120


FAULTS: dict[str, Fault] = {}


def register(fault: Fault) -> None:
    """Add a fault to those that are known.

    Raises:
        ValueError: its name is taken.
    """
    if fault.name in FAULTS:
        raise ValueError(f"two faults are named {fault.name}")
    FAULTS[fault.name] = fault


def fault(
    name: str,
    text: str,
    *,
    setups: tuple[str, ...] = DEFAULT_SETUPS,
    short: bool = False,
    soak: bool = False,
    away: tuple[str, ...] = (),
    suspects: str = "",
    patience: float = 120,
) -> Callable[[Act], Act]:
    """Register a function as a fault; the arguments are those of :class:`Fault`."""

    def take(act: Act) -> Act:
        register(Fault(name, text, act, setups, short, soak, away, suspects, patience))
        return act

    return take


def load() -> dict[str, Fault]:
    """Return all faults, by name, in the order in which they run."""
    for module in MODULES:
        importlib.import_module(f"tests.matrix.{module}")
    return FAULTS
