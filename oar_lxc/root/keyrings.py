"""Remove the kernel's keyrings of a job's ids (keyrings(7)).

The kernel keeps the keyrings of a user id after the last process of it: those of a namespace until
that is gone, others for three days or until the next boot. A set-user-id program of a container
makes such for each of the job's ids, of 20,000 bytes each. Only a process with the id may remove
them.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path

from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.deadline import Deadline
from oar_lxc.root.ownership import Whose

USERS = Path("/proc/key-users")
KEYS = Path("/proc/keys")  # those that the reader may see
SHARE = 0.2  # the part of the time for it
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
# linux/keyctl.h
_CLEAR, _INVALIDATE, _GET_PERSISTENT = 7, 21, 22
_PROCESS_KEYRING = -2

_libc = ctypes.CDLL(None, use_errno=True)


def forget(whose: Whose, deadline: Deadline, users: Path = USERS) -> None:
    """Remove the keyrings of a job's ids; no process of the job may run any more.

    Args:
        whose: the job's ids.
        deadline: when to give up.
        users: the kernel's list of the user ids that have keys.

    Raises:
        TooLateError: it took longer than its part of the time until the deadline.
        OSError: there can be no child.
    """
    if found := owners(whose, users):
        # A process that the user hides with an id of the job may stop the child.
        bounded(partial(_remove, found), deadline.part(SHARE).timeout(), "removing keyrings")


def owners(whose: Whose, users: Path = USERS) -> list[int]:
    """Return the ids of a job that have keys."""
    try:
        text = users.read_text()
    except FileNotFoundError:  # a kernel without keyrings
        return []
    found = re.findall(r"^ *([0-9]+): +[0-9]+ +[0-9]+/[0-9]+ +([0-9]+)/", text, re.MULTILINE)
    return [int(uid) for uid, keys in found if whose.is_jobs(int(uid)) and keys != "0"]


def keyrings_of(uid: int, keys: Path = KEYS) -> list[int]:
    """Return the keyrings that a user id owns, by their numbers.

    Not by their meaning, such as "the user's": by that, the kernel finds none of an id's for a
    while after one of them was revoked or invalidated, which the id itself may have done.

    Args:
        uid: the id, which this process has.
        keys: the kernel's list of keys. Their names are the user's, and may look like more lines.
    """
    found = re.findall(
        rf"^([0-9a-f]{{1,8}}) +\S+ +\S+ +\S+ +\S+ +{uid} +\S+ +keyring ",
        keys.read_text(errors="replace"),
        re.MULTILINE,
    )
    return [int(number, 16) for number in found]


def _remove(ids: Collection[int]) -> list[str]:
    for uid in ids:
        os.setresuid(uid, uid, 0)
        found = [*keyrings_of(uid), _keyctl(_GET_PERSISTENT, -1, _PROCESS_KEYRING)]
        # Clear them also: other keyrings may refer to them.
        for operation in (_CLEAR, _INVALIDATE):
            for keyring in found:
                _keyctl(operation, keyring)
        os.setresuid(0, 0, 0)
    return []


def _keyctl(operation: int, *words: int) -> int:
    """Call keyctl(2); return -1 where the kernel refuses."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        return -1
    arguments = [ctypes.c_long(word) for word in (operation, *words, *[0] * (4 - len(words)))]
    return int(_libc.syscall(ctypes.c_long(number), *arguments))
