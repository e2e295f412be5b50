"""What gets through the user's login shell on a node unharmed: words, and a mark.

oarsh hands a line to the login shell there, whichever that is, after its dotfiles. So the line is
of characters that mean nothing to any shell, and what comes back is read from a mark on.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

NO_MARK = "-"


def pack(words: Sequence[str]) -> str:
    """Return words as one of letters, digits, ``-`` and ``_``.

    Args:
        words: without NUL; bytes that are no UTF-8 as surrogates.
    """
    data = "\0".join(words).encode("utf-8", "surrogateescape")
    return "w" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def unpack(text: str) -> list[str]:
    """Return what :func:`pack` was given.

    Raises:
        ValueError: it is something else.
    """
    data = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), b"-_", validate=True)
    return data.decode("utf-8", "surrogateescape").split("\0")


def mark_of(token: str) -> bytes:
    """Return what a program writes first, that what comes before is known not to be its own.

    A newline before it, as what the shell wrote may lack the end of its line; and a character that
    a shell which repeats its command line does not write.
    """
    return f"\n\x01oar-lxc {token}\n".encode()
