"""Tell what is done, to whoever wants to know: ``oar-lxc -v``.

A log costs what it takes to load one, which nobody pays who does not look. So this is only where
it can be attached; the package writes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[..., object]] = []


def listen(listener: Callable[..., object]) -> None:
    """Have a function called with each event: its name, and facts by name."""
    _listeners.append(listener)


def doing(event: str, **facts: object) -> None:
    """Tell of something that is done now; a constant text, and what it is done with."""
    for listener in _listeners:
        listener(event, **facts)
