"""Report events to listeners, for ``oar-lxc -v``.

Loading a logging library takes time, which a user without ``-v`` shall not pay. So a program may
attach a log here; the package writes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[..., object]] = []


def listen(listener: Callable[..., object]) -> None:
    """Call a function with each later event: its name, and facts by name."""
    _listeners.append(listener)


def doing(event: str, **facts: object) -> None:
    """Report an event to all listeners: a constant text, and facts by name."""
    for listener in _listeners:
        listener(event, **facts)
