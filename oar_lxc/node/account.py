"""Who a user is, asked so that a user database that does not answer holds nothing up."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress

from oar_lxc.errors import OarLxcError
from oar_lxc.layout import JobLayout
from oar_lxc.node.bounded import bounded

PATIENCE = 5.0  # seconds; users may come from the network, and its server may be dead
UNKNOWN = -1


def find_uid(user: str) -> int:
    """Return a user's id; :data:`UNKNOWN` where there is no such user.

    Raises:
        TooLateError: the user database did not answer.
    """

    def look() -> list[str]:
        try:
            return [str(pwd.getpwnam(user).pw_uid)]
        except KeyError:
            return []

    found = bounded(look, PATIENCE, f"to look user {user} up")
    return int(found[0]) if found else UNKNOWN


def find_name(uid: int) -> str:
    """Return a user's name; empty where nobody, or nothing in time, tells it."""

    def look() -> list[str]:
        try:
            return [pwd.getpwuid(uid).pw_name]
        except KeyError:
            return []

    with suppress(OarLxcError):
        found = bounded(look, PATIENCE, f"to look user {uid} up")
        return found[0] if found else ""
    return ""


def job_uid(layout: JobLayout, user: str) -> int:
    """Return the id of a job's user, whatever the user database says of it.

    Where it says nothing, the owner that root gave to the job's private directory is it.

    Returns:
        The id; :data:`UNKNOWN` where nothing tells it.
    """
    with suppress(OarLxcError):
        if (uid := find_uid(user)) != UNKNOWN:
            return uid
    return private_owner(layout) or UNKNOWN  # root has no jobs


def private_owner(layout: JobLayout) -> int:
    """Return the owner that root gave to a job's private directory; 0 before, or where it is not.

    Its parent is root's own, so nobody else can have put something in its place.
    """
    with suppress(OSError):
        parent, private = os.lstat(layout.directory), os.lstat(layout.private)
        if parent.st_uid == os.geteuid() and stat.S_ISDIR(private.st_mode):
            return private.st_uid
    return 0
