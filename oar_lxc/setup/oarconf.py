"""Editing ``oar.conf`` in place: by key, every other byte stays.

The file has the syntax of a shell's assignments: OAR's Perl reads it with a pattern, and ``oarsh``
sources it. In both, the last assignment of a key counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import UsageError

PATH = Path("/etc/oar/oar.conf")

_ASSIGNMENT = re.compile(
    r"""^(?P<before>\s*(?P<comment>\#?)\s*)(?P<key>[A-Z][A-Z0-9_]*)=
        (?P<value>"[^"]*"|'[^']*'|[^\s\#"']*)(?P<after>\s*(?:\#.*)?)$""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class OarConf:
    """The text of an ``oar.conf``; changes make a new one."""

    text: str

    def get(self, key: str) -> str | None:
        """Return the value of a key; None where it is not set (or only in a comment)."""
        found = [m for _, m in self._matches(key) if not m["comment"]]
        return found[-1]["value"].strip("\"'") if found else None

    def set(self, key: str, value: str) -> OarConf:
        """Set a key: where it is set, else where the same line is commented out, else below that.

        A key of which the file says nothing goes to its end.
        """
        if self.get(key) == value:
            return self
        line = f'{key}="{check_value(value)}"'
        lines = self.text.split("\n")
        matches = self._matches(key)
        active = [(n, m) for n, m in matches if not m["comment"]]
        if active:
            number, match = active[-1]
            lines[number] = f"{match['before']}{line}{match['after']}"
            return OarConf("\n".join(lines))
        same = [n for n, m in matches if m["value"].strip("\"'") == value]
        if same:
            lines[same[-1]] = line
        elif matches:
            lines.insert(matches[-1][0] + 1, line)
        else:
            end = len(lines) - 1 if lines[-1] == "" else len(lines)
            lines[end:] = [line, ""]
        return OarConf("\n".join(lines))

    def unset(self, key: str) -> OarConf:
        """Comment a key out, so that :meth:`restore` finds its value again."""
        lines = self.text.split("\n")
        for number, match in self._matches(key):
            if not match["comment"]:
                lines[number] = "#" + lines[number].lstrip()
        return OarConf("\n".join(lines))

    def restore(self, key: str, default: str) -> OarConf:
        """Set a key that is commented out to the value in the comment, else to a default."""
        if self.get(key) is not None:
            return self
        matches = self._matches(key)
        return self.set(key, matches[-1][1]["value"].strip("\"'") if matches else default)

    def update(self, values: Mapping[str, str]) -> OarConf:
        """Set several keys."""
        conf = self
        for key, value in values.items():
            conf = conf.set(key, value)
        return conf

    def _matches(self, key: str) -> list[tuple[int, re.Match[str]]]:
        found = []
        for number, line in enumerate(self.text.split("\n")):
            match = _ASSIGNMENT.match(line)
            if match and match["key"] == key:
                found.append((number, match))
        return found


def check_value(value: str) -> str:
    """Return a value that both of the file's readers take literally.

    Raises:
        UsageError: it has a character that a shell would act on.
    """
    if re.search(r'["`$\\\n]', value):
        raise UsageError(f'{value!r} cannot be a value in oar.conf: it has one of " ` $ \\')
    return value


def parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """Read ``KEY=VALUE`` arguments.

    Raises:
        UsageError: one has another form.
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            raise UsageError(f"{pair!r} is not of the form KEY=VALUE, such as LOG_LEVEL=3")
        settings[key] = check_value(value)
    return settings


def read(path: Path = PATH) -> OarConf:
    """Read the file; one that does not exist reads as empty."""
    try:
        return OarConf(path.read_text("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return OarConf("")
