"""Look up users in the user database, with a time limit in case that it does not answer."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.bounded import bounded
from oar_lxc.model.layout import JobLayout

# Users may come from a server on the network, and it may be dead. The C library itself waits twice
# 5 s for a name service cache that does not answer, and then asks the cache's sources.
PATIENCE = 12.0  # seconds
LEAST_PATIENCE = 0.5  # seconds, after a lookup that was not answered
UNKNOWN = -1
_silent: list[str] = []  # the lookups of this process that were not answered


@dataclass(frozen=True)
class Account:
    """A user's entry in the user database.

    Attributes:
        uid: the user's id.
        gid: the user's group.
        home: the user's home.
    """

    uid: int
    gid: int
    home: Path


def find_account(user: str) -> Account | None:
    """Return a user's account; None if there is no such user.

    Raises:
        TooLateError: the user database did not answer.
    """

    def look() -> list[str]:
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            return []
        return [str(found.pw_uid), str(found.pw_gid), found.pw_dir]

    if not (words := _ask(look, f"to look user {user} up")):
        return None
    return Account(int(words[0]), int(words[1]), Path(words[2]))


def find_uid(user: str) -> int:
    """Return a user's id; :data:`UNKNOWN` if there is no such user.

    Raises:
        TooLateError: the user database did not answer.
    """
    found = find_account(user)
    return found.uid if found else UNKNOWN


def find_name(uid: int) -> str:
    """Return a user's name; empty if the user database does not know it or answers too late."""

    def look() -> list[str]:
        try:
            return [pwd.getpwuid(uid).pw_name]
        except KeyError:
            return []

    with suppress(OSError, OarLxcError):
        found = _ask(look, f"to look user {uid} up")
        return found[0] if found else ""
    return ""


def _ask(look: Callable[[], list[str]], what: str) -> list[str]:
    """Look something up; after one lookup without an answer, wait less for the next ones."""
    try:
        return bounded(look, LEAST_PATIENCE if _silent else PATIENCE, what)
    except TooLateError:
        _silent.append(what)
        raise


def job_uid(layout: JobLayout, user: str) -> int:
    """Return the id of a job's user.

    It is the owner of the job's private directory, which root set. The user database is asked only
    if there is no such directory.

    Returns:
        The id; :data:`UNKNOWN` if neither tells it.
    """
    if owner := private_owner(layout):  # root has no jobs
        return owner
    with suppress(OSError, OarLxcError):
        return find_uid(user)
    return UNKNOWN


def private_owner(layout: JobLayout) -> int:
    """Return the owner that root gave to a job's private directory; 0 if none is set.

    Root owns the parent directory, so no user can have replaced the private directory.
    """
    with suppress(OSError):
        parent, private = os.lstat(layout.directory), os.lstat(layout.private)
        if parent.st_uid == os.geteuid() and stat.S_ISDIR(private.st_mode):
            return private.st_uid
    return 0
