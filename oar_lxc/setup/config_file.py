"""Change the administrator's file ``/etc/oar-lxc/oar-lxc.toml``: the hook that prepares nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from oar_lxc.linux.regular import read_regular
from oar_lxc.model.config import LONGEST, PREPARE_BY, parse_config
from oar_lxc.model.layout import CONFIG
from oar_lxc.setup import files
from oar_lxc.setup.steps import SetupError, Step

_PREPARE = re.compile(r"""(prepare["']?\s*=\s*)("[^"]*"|'[^']*')""")


def nodes_are_prepared_by(prepare: str) -> Step:
    """Make the step that sets the hook that prepares; the administrator's other settings stay."""
    if prepare not in PREPARE_BY:
        raise SetupError(f"nodes are prepared by {' or '.join(PREPARE_BY)}, not by {prepare!r}")
    title = f"nodes are prepared by the {prepare}"
    return files.own_file(title, CONFIG, lambda: text_prepared_by(prepare))


def text_prepared_by(prepare: str) -> str:
    """Return the file's text with another ``hooks.prepare``.

    Raises:
        ConfigError: the file is wrong.
        SetupError: the file cannot be read, or cannot be changed safely.
    """
    try:
        content = read_regular(CONFIG, follow=True, most=LONGEST)
    except FileNotFoundError:
        content = b"# See the administrator's guide; every key has a default.\n"
    except OSError as error:
        raise SetupError(f"{CONFIG}: {error.strerror}: mend or remove it") from error
    parse_config(content, CONFIG)  # the administrator has to mend a wrong file
    return with_prepare(content.decode().replace("\r\n", "\n"), prepare)


def with_prepare(text: str, prepare: str) -> str:
    """Return a configuration with another ``hooks.prepare``; other values and comments stay.

    TOML has several forms of tables, and the file may use any. So this tries each place where the
    value may stand, and parses the result. It takes the first result in which only this value
    differs.

    Args:
        text: a valid configuration, with newlines alone at the ends of lines.
        prepare: the value.

    Raises:
        SetupError: no place is right; the message says what to write by hand.
    """
    import tomllib

    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    wanted = tomllib.loads(text)
    hooks = wanted.setdefault("hooks", {})
    if hooks.get("prepare") == prepare:
        return mark + text
    hooks["prepare"] = prepare
    for new in _with_line(text, f'prepare = "{prepare}"'):
        with suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(new) == wanted:
                return mark + new
    raise SetupError(
        f'{CONFIG}: cannot be changed safely: write prepare = "{prepare}" into its table hooks '
        "by hand, and run set-up again"
    )


def _with_line(text: str, line: str) -> Iterator[str]:
    """Yield a text for each place where a line of the table hooks may stand."""
    lines = text.split("\n")
    if lines[-1]:
        lines.append("")  # the last line ends with a newline
    value = line.partition(" = ")[2]
    for number, old in enumerate(lines):
        for new in (
            [_PREPARE.sub(rf"\g<1>{value}", old, count=1)],
            [old, line],  # below the table's header
            [f"hooks.{line}", old],  # before other dotted keys
            [re.sub(r"(=\s*\{)", rf"\g<1> {line},", old, count=1)],  # into an inline table
            [re.sub(r"(=\s*\{)\s*\}", rf"\g<1> {line} }}", old, count=1)],
        ):
            if "hooks" in old or "prepare" in old:
                yield "\n".join([*lines[:number], *new, *lines[number + 1 :]])
    yield "\n".join([*lines[:-1], "[hooks]", line, ""])
