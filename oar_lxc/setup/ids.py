"""Find accounts and settings of a node that use ids reserved for jobs' containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.regular import read_regular
from oar_lxc.root.id_ranges import COUNT, is_first_id, overlapping

ETC = Path("/etc")
_SUBORDINATE = ("subuid", "subgid")
_DEFAULT_MIN, _DEFAULT_MAX = 100000, 600100000  # login.defs(5)


def notes(etc: Path = ETC) -> list[str]:
    """Return notes for the administrator about ids on this node.

    Args:
        etc: the directory of the system's configuration.
    """
    return [*_ranges(etc), *_accounts(etc), *_given_out(etc)]


def _ranges(etc: Path) -> Iterator[str]:
    for name in _SUBORDINATE:
        for line in _lines(etc / name):
            owner, _, numbers = line.partition(":")
            start, _, count = numbers.partition(":")
            if not (start.isdecimal() and count.isdecimal()):
                continue
            first, last = int(start), int(start) + int(count) - 1
            if int(count) == COUNT and is_first_id(first):
                continue  # of version 0.1, and removed by a step
            if found := overlapping(first, int(count)):
                yield (
                    f"{etc / name} gives {owner} the ids {first} to {last}, "
                    f"among them {_shown(found)}, which are for containers of jobs: who has these "
                    f"ids can reach into containers. Give {owner} others, below {found[0][0]}"
                )


def _accounts(etc: Path) -> Iterator[str]:
    for name in ("passwd", "group"):
        for line in _lines(etc / name):
            words = line.split(":")
            if len(words) > 2 and words[2].isdecimal() and overlapping(int(words[2]), 1):
                yield (
                    f"{etc / name}: {words[0]} has the id {words[2]}, which is for containers of "
                    "jobs: all that runs with it dies with a job that has it. Give it another"
                )


def _given_out(etc: Path) -> Iterator[str]:
    text = "\n".join(_lines(etc / "login.defs"))
    for kind in ("UID", "GID"):
        first = _value(text, f"SUB_{kind}_MIN", _DEFAULT_MIN)
        last = _value(text, f"SUB_{kind}_MAX", _DEFAULT_MAX)
        if first <= last and (found := overlapping(first, last - first + 1)):
            yield (
                f"{etc / 'login.defs'}: useradd gives out subordinate ids from SUB_{kind}_MIN "
                f"{first} to SUB_{kind}_MAX {last}, among them {_shown(found)}, which are for "
                f"containers of jobs: set SUB_{kind}_MAX to {found[0][0] - 1} or less"
            )


def _value(text: str, key: str, otherwise: int) -> int:
    found = re.findall(rf"^\s*{key}\s+([0-9]+)\s*$", text, re.MULTILINE)
    return int(found[-1]) if found else otherwise


def _shown(spans: list[tuple[int, int]]) -> str:
    return " and ".join(f"{first} to {last}" for first, last in spans)


def _lines(path: Path) -> list[str]:
    try:
        return read_regular(path, follow=True).decode("utf-8", "surrogateescape").split("\n")
    except (OSError, OarLxcError):
        return []
