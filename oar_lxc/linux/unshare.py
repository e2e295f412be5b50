"""Run commands that mount file systems, so that no mount or process of them is left."""

from __future__ import annotations

from collections.abc import Sequence


def in_own_namespaces(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another in mount and process namespaces of its own.

    The host never sees its mounts. All its processes end with the caller, also if the caller is
    killed.
    """
    return [
        *dies_with_caller(["unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]),
        *argv,
    ]


def dies_with_caller(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another, which the kernel kills when the caller ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]
