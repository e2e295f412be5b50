"""Edit single keys of ``oar.conf``, without a change to any other byte.

The file has the syntax of shell assignments: OAR's Perl reads it with a pattern, and ``oarsh``
sources it. For both, the last assignment of a key counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import UsageError
from oar_lxc.oar.paths import CONF

_ASSIGNMENT = re.compile(
    r"""^(?P<before>\s*(?P<comment>\#?)\s*)(?P<key>[A-Z][A-Z0-9_]*)=
        (?P<value>"[^"]*"|'[^']*'|[^\s\#"']*)(?P<after>\s*(?:\#.*)?)$""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class OarConf:
    """The text of an ``oar.conf``; a change returns a new object."""

    text: str

    def get(self, key: str) -> str | None:
        """Return the value of a key; None if it is not set, or only in a comment."""
        found = [m for _, m in self._matches(key) if not m["comment"]]
        return found[-1]["value"].strip("\"'") if found else None

    def set(self, key: str, value: str) -> OarConf:
        """Set a key in the line that sets it.

        If no line does, use a commented-out line with the same value, else a new line below a
        commented-out one, else a new line at the end.
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
        """Comment out a key, so that :meth:`restore` finds its value again."""
        lines = self.text.split("\n")
        for number, match in self._matches(key):
            if not match["comment"]:
                lines[number] = "#" + lines[number].lstrip()
        return OarConf("\n".join(lines))

    def restore(self, key: str, default: str) -> OarConf:
        """Set a key that is not set: to the value in a comment, else to a default."""
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
    """Check that both readers of the file take a value literally, and return it.

    Raises:
        UsageError: it has a character that is special to a shell.
    """
    if re.search(r'["`$\\\n]', value):
        raise UsageError(f'{value!r} cannot be a value in oar.conf: it has one of " ` $ \\')
    return value


def parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """Read ``KEY=VALUE`` arguments.

    Raises:
        UsageError: an argument has another form.
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            raise UsageError(f"{pair!r} is not of the form KEY=VALUE, such as LOG_LEVEL=3")
        settings[key] = check_value(value)
    return settings


def read(path: Path = CONF) -> OarConf:
    """Read the file; a missing file reads as empty."""
    try:
        return OarConf(path.read_text("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return OarConf("")
