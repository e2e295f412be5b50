"""Check the arguments of callers and of command lines before anything is done with them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from oar_lxc.errors import ContainerError, SpecError, UsageError

SHOWN = 80  # characters of a value that go into an error


def check_command(argv: Any) -> list[str]:
    """Return a command as a list of its words.

    Raises:
        SpecError: it is not a list of words.
    """
    if isinstance(argv, str | bytes) or not isinstance(argv, Iterable) or not (words := [*argv]):
        raise SpecError(
            f"the command is {shown(argv)}; it is a list of words such as ['ls', '/root']"
        )
    for number, word in enumerate(words, 1):
        if not isinstance(word, str | os.PathLike):
            raise SpecError(f"word {number} of the command is {shown(word)}; it is a text")
        if "\0" in os.fsdecode(word):
            raise SpecError(
                f"word {number} of the command is {shown(word)}; no word can hold a zero byte"
            )
    return [os.fsdecode(word) for word in words]


def check_names(names: Any, known: Collection[str]) -> list[str]:
    """Return names of containers as a list; a single text is one name.

    Args:
        names: the caller's argument.
        known: the names of all containers, in their order.

    Raises:
        SpecError: ``names`` is not a list of names.
        ContainerError: no container has one of the names.
    """
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise SpecError(f"containers is {shown(names)}; it is a list of names such as ['vm1']")
    found = [names] if isinstance(names, str) else [*names]
    for name in found:
        if not isinstance(name, str):
            raise SpecError(f"containers has {shown(name)}; it is a list of names such as ['vm1']")
        if name not in known:
            has = ", ".join(known) or "none"
            raise ContainerError(
                name, "", f"the session has no such container; it has: {shortened(has)}"
            )
    return found


def check_input(stdin: Any) -> str:
    """Return a command's standard input as text; bytes that are not UTF-8 become surrogates.

    Raises:
        SpecError: it is neither text nor bytes.
    """
    if isinstance(stdin, bytes | bytearray):
        return bytes(stdin).decode("utf-8", "surrogateescape")
    if not isinstance(stdin, str):
        raise SpecError(f"stdin is {shown(stdin)}; it is a text or bytes")
    return stdin


def check_seconds(key: str, value: Any) -> float:
    """Return a number of seconds.

    Raises:
        SpecError: it is not a number, or less than 0.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise SpecError(f"{key} is {shown(value)}; it is a number of seconds, at least 0")
    return float(value)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse an option with the value ``--``: argparse gives a list for it before Python 3.13.

    Args:
        options: the options that argparse has parsed, by name; each takes one value or none.

    Raises:
        UsageError: there is one.
    """
    for name, value in options.items():
        if isinstance(value, list) or value == "--":
            raise UsageError(f"--{name.replace('_', '-')} is '--', which is no value of it")


def check_callable(key: str, value: Any) -> None:
    """Refuse a value that is neither a function nor None.

    Raises:
        SpecError: it is something else.
    """
    if value is not None and not callable(value):
        raise SpecError(f"{key} is {shown(value)}; it is a function")


def shown(value: object) -> str:
    """Return a value as an error shows it."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """Return a text, cut to the length that fits into an error."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}…"
