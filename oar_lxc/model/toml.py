"""Parse TOML, and say in one sentence what is wrong with it."""

from __future__ import annotations

import re
from typing import Any

from oar_lxc.model.arguments import shown


def parse_toml(content: bytes) -> dict[str, Any]:
    """Return what a TOML file says.

    Args:
        content: UTF-8, with or without a byte order mark, as editors of Windows write.

    Raises:
        ValueError: it is no TOML; the sentence names the line, or says what it is not.
    """
    import tomllib  # slow to load for a hook, and most nodes have no such file

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its lists or tables are nested too deeply") from None
    except ValueError as error:
        raise ValueError(_sentence(str(error), text)) from None


def _sentence(said: str, text: str) -> str:
    """Return what is wrong, with the text of the line in which it is."""
    match = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", said, re.DOTALL)
    if not match:
        return f"it is no TOML: {said}"
    line = text.replace("\r\n", "\n").split("\n")[int(match[2]) - 1].strip()
    return f"line {match[2]} is {shown(line)}, which is no TOML: {match[1]}"
