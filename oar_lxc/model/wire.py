"""How messages travel between an agent and its caller: as JSON, one message per line.

An agent reads requests (:mod:`oar_lxc.model.requests`) and writes events
(:mod:`oar_lxc.model.events`). :func:`encode` turns a message into a line, and :func:`decode` a
line into a message.

The nodes of a job may have different versions. A reader ignores fields and events of a newer
version, and uses the default of a field that an older version does not write. So each new field
of a class needs a default. A spec and a plan hold what a user asked for; unknown fields in them
are errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from oar_lxc.errors import UsageError
from oar_lxc.model.events import Event
from oar_lxc.model.message import AnyMessage, LazyValue, Message, names_of
from oar_lxc.model.names import Peer
from oar_lxc.model.requests import Request

if TYPE_CHECKING:
    from oar_lxc.model.plan import Plan
    from oar_lxc.model.spec import Port, Spec

# The first line that a program of oar-lxc writes on a node. Output before it is from the user's
# login shell. The caller sends input only after this line, as the shell could read it before.
UP = b'["", "up"]'


class NoMessageError(ValueError):
    """A line is not a message; another program of the user wrote it."""


def _kinds(base: type[AnyMessage]) -> dict[str, type[AnyMessage]]:
    found: dict[str, type[AnyMessage]] = {}
    for cls in base.__subclasses__():
        found |= {cls.kind: cls} if "kind" in vars(cls) else _kinds(cls)
    return found


# Classes by their kinds.
REQUESTS = _kinds(Request)
EVENTS = _kinds(Event)


def encode(message: Message) -> bytes:
    """Return a message as a line, without the newline."""
    told = {name: getattr(message, name) for name in names_of(message)}
    if isinstance(message, Event):
        told = {"event": message.kind, **told}
    return json.dumps(told, default=asdict).encode()


def decode(
    line: str | bytes, known: Mapping[str, type[AnyMessage]], kind: str = ""
) -> AnyMessage | None:
    """Return the message of a line; None if its kind is not known.

    Args:
        line: a line that :func:`encode` made, perhaps in another version.
        known: :data:`REQUESTS` or :data:`EVENTS`.
        kind: the message's kind; by default the line names it, as the lines of events do.

    Raises:
        NoMessageError: the line is not a message.
    """
    try:
        told = json.loads(line)
        cls = known.get(kind or told["event"])
        if cls is None:
            return None
        types = {one.name: str(one.type) for one in fields(cls)}
        return cls(**{k: _value(told[k], types[k]) for k in types if k in told})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NoMessageError(f"it is no message: {error}") from error


def _value(data: Any, type_: str) -> Any:
    """Make a field's value from JSON's types; a value of another module's class is made later.

    The module of plans takes longer to load than all code before it. So an agent reads the plan
    only while the process that starts the containers comes up.
    """
    if type_ in _LAZY:
        return LazyValue(_LAZY[type_], data)
    if type_ == "Names":
        return {
            str(session): {str(name): Peer.from_data(told) for name, told in names.items()}
            for session, names in data.items()
        }
    if type_.startswith("tuple[") and data is not None:
        return tuple(data)
    return data


def _plan(data: Any) -> Plan:
    from oar_lxc.model.plan import Plan

    try:
        return Plan.from_data(data)
    except (TypeError, KeyError, AttributeError) as error:
        # An error, not ignored: a container would lack what the user asked for.
        raise UsageError(
            f"the plan is of another version of oar-lxc ({error}): install one version on all "
            "nodes and frontends"
        ) from error


def _spec(data: Any) -> Spec:
    from oar_lxc.model.spec import Spec

    return Spec.from_data(data)


def _ports(data: Any) -> tuple[Port, ...]:
    from oar_lxc.model.spec import Port

    return tuple(Port(**port) for port in data)


_LAZY: dict[str, Callable[[Any], Any]] = {
    "Plan": _plan,
    "Spec": _spec,
    "tuple[Port, ...]": _ports,
}
