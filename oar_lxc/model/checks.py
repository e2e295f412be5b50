"""Checks of single values that a spec has, and the fields that tell of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field
from typing import Any

from oar_lxc.errors import SpecError


class AllowedError(SpecError):
    """A value is not allowed; the text says what is, and the caller adds key and value."""


def doc(text: str, default: Any = None, **more: Any) -> Any:
    """Return a field with its sentence for the reference."""
    if more:
        return field(**more, metadata={"doc": text})
    return field(default=default, metadata={"doc": text})


def check_text(value: object) -> str:
    """Return a text.

    Raises:
        AllowedError: it is something else.
    """
    if not isinstance(value, str):
        raise AllowedError("it is a text")
    return value


def check_name_of(value: object, longest: int = 32) -> str:
    """Return the name of a group or of a network.

    Raises:
        AllowedError: it is no such name, or longer than ``longest``.
    """
    if not re.fullmatch(rf"[a-z](?:[a-z0-9-]{{0,{longest - 2}}}[a-z0-9])?", check_text(value)):
        raise AllowedError(
            "it starts with a small letter and has small letters, digits and '-', at most "
            f"{longest}"
        )
    return str(value)


def check_truth(value: object) -> bool:
    """Return a truth value.

    Raises:
        AllowedError: it is something else.
    """
    if not isinstance(value, bool):
        raise AllowedError("it is true or false")
    return value


def check_list(value: object) -> Iterable[Any]:
    """Return a list or tuple.

    Raises:
        AllowedError: it is something else.
    """
    if not isinstance(value, list | tuple):
        raise AllowedError("it is a list")
    return value
