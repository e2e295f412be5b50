"""Encode words and a mark that pass unchanged through the user's login shell on a node.

oarsh gives a command line to the user's login shell on the node, which may be any shell and reads
its dotfiles first. So the line holds only characters without a meaning to any shell. The caller
ignores all output before the mark, as the dotfiles may print, too.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

NO_MARK = "-"


def pack(words: Sequence[str]) -> str:
    """Encode words as one word of letters, digits, ``-`` and ``_``.

    Args:
        words: without NUL; bytes that are not UTF-8 are surrogates.
    """
    data = "\0".join(words).encode("utf-8", "surrogateescape")
    return "w" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def unpack(text: str) -> list[str]:
    """Return the words that :func:`pack` encoded.

    Raises:
        ValueError: the text does not come from :func:`pack`.
    """
    data = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), b"-_", validate=True)
    return data.decode("utf-8", "surrogateescape").split("\0")


def mark_of(token: str) -> bytes:
    """Return the mark that a program writes before its own output.

    It starts with a newline, as the shell's output may not end with one. Then comes a control
    character: a shell that echoes its command line does not write it.
    """
    return f"\n\x01oar-lxc {token}\n".encode()
