"""The base of requests and events: frozen dataclasses that load quickly.

The methods are written here once. :func:`~dataclasses.dataclass` would compile its methods for
each class at import, which takes a millisecond per class, and a launch would wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from oar_lxc.model.names import Peer


class Message:
    """The base of requests and events.

    Attributes:
        kind: the word that tells the other side which class it is.
    """

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(self, *values: Any, **keys: Any) -> None:
        known = fields(self)
        in_order = [one.name for one in known if not one.kw_only]
        if len(values) > len(in_order):
            raise TypeError(f"{type(self).__name__} has not so many fields")
        given = dict(zip(in_order, values, strict=False)) | keys
        for one in known:
            if one.name not in given:
                given[one.name] = _default(one)
        if len(given) != len(known):
            raise TypeError(f"{type(self).__name__} has no fields but {', '.join(names_of(self))}")
        later = {name: value for name, value in given.items() if isinstance(value, LazyValue)}
        made = {name: value for name, value in given.items() if name not in later}
        vars(self).update(made, _later=later)

    if not TYPE_CHECKING:  # with it, type checkers would accept every name

        def __getattr__(self, name: str) -> Any:
            """Make the value of a :class:`LazyValue` field when it is first read."""
            if name not in vars(self).get("_later", ()):
                raise AttributeError(f"{type(self).__name__} has no {name}")
            value = vars(self)[name] = vars(self)["_later"][name]()
            return value

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name; ``event`` returns the kind.

        Raises:
            KeyError: there is no such field.
        """
        if name == "event":
            return self.kind
        if name not in names_of(self):
            raise KeyError(name)
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = (one.name for one in fields(self) if one.compare)
        return all(getattr(self, name) == getattr(other, name) for name in compared)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, f.name) for f in fields(self) if f.compare)))

    def __repr__(self) -> str:
        values = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
        return f"{type(self).__name__}({', '.join(values)})"


AnyMessage = TypeVar("AnyMessage", bound=Message)
# Session → container → how others of the job know it.
Names = Mapping[str, Mapping[str, Peer]]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def message(cls: type[AnyMessage]) -> type[AnyMessage]:
    """Turn a class that has only fields into a class of messages, a frozen dataclass."""
    return dataclass(init=False, repr=False, eq=False)(cls)


class LazyValue(partial[Any]):
    """A value that is made when it is first read, as making it takes long."""


def _default(one: Field[Any]) -> Any:
    if one.default is not MISSING:
        return one.default
    if one.default_factory is not MISSING:
        return one.default_factory()
    raise TypeError(f"{one.name} is missing")


def names_of(message: Message | type[Message]) -> list[str]:
    """Return the names of a message's fields."""
    return [one.name for one in fields(message)]
