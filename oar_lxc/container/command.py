"""Run a command inside a container: its environment, and how it takes the process over."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from oar_lxc.errors import printable
from oar_lxc.linux.signals import default_signals
from oar_lxc.model.description import read_description

PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment_inside(directory: Path) -> list[str]:
    """Return the environment of a command that root runs in a container, as ``NAME=value``."""
    variables = {"PATH": PATH_INSIDE, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8"}
    found = read_description(directory).get("environment")
    variables.update(found if isinstance(found, dict) else {})
    return [f"{key}={value}" for key, value in variables.items()]


def run_command(path: str, name: str, own_group: bool, argv: Sequence[str]) -> int:
    """Replace this process, in a container, by a command; reset signals that Python ignores."""
    if own_group:
        os.setpgid(0, 0)
    default_signals()
    return become_command(argv, path, name)


def become_command(argv: Sequence[str], path: str, name: str) -> int:
    """Replace this process by a command; if that fails, say why on standard error.

    LXC's own function for this takes only UTF-8, and reports no error: its status of 127 may as
    well be the command's own.

    Args:
        argv: the command; bytes that are no UTF-8 as surrogates.
        path: where to look for it, in the form of ``PATH``.
        name: the container's name.

    Returns:
        The exit status that shells use: 127 if there is no such command, 126 if it cannot be
        executed.
    """
    words = [word.encode("utf-8", "surrogateescape") for word in argv]
    places = [b""] if b"/" in words[0] else [os.fsencode(p) + b"/" for p in path.split(":") if p]
    why = ""
    for place in places:
        file = place + words[0]
        try:
            try:
                os.execv(file, words)  # noqa: S606  # there is no shell between
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execv("/bin/sh", [b"sh", file, *words[1:]])  # noqa: S606  # as execvp(3) does
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(file):
                why = why or "not executable, as what its first line names is missing"
        except OSError as error:
            why = why or f"not executable ({error.strerror})"
    os.write(2, f"oar-lxc: {printable(argv[0])}: {why or 'no such command'} in {name}\n".encode())
    return 126 if why else 127
