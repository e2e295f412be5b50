"""What users can use up is told apart from what is wrong with a node."""

from __future__ import annotations

import errno
import os

import pytest

from oar_lxc.errors import CommandError, OarLxcError
from oar_lxc.linux.bounded import bounded
from oar_lxc.linux.shortage import shortage_of


def _caused() -> OarLxcError:
    error = OarLxcError("a key cannot be read")
    error.__cause__ = OSError(errno.ENFILE, os.strerror(errno.ENFILE))
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "temporarily unavailable"),
        (MemoryError(), "Cannot allocate memory"),
        (_caused(), "Too many open files in system"),
        (CommandError(["ip"], 2, "RTNETLINK answers: No buffer space available\n"), "buffer"),
        (CommandError(["ip"], 127, "ip: Resource temporarily unavailable"), "unavailable"),
        (CommandError(["ip"], -9, ""), "status -9"),
    ],
)
def test_what_users_can_use_up_is_a_shortage(error: Exception, why: str) -> None:
    assert why in shortage_of(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        OSError("this kernel does not allow user namespaces"),
        OarLxcError("it took too long"),
        CommandError(["ip"], 2, "RTNETLINK answers: Operation not permitted"),
        CommandError(["ip"], 127, "ip: No such file or directory"),
        KeyError("x"),
    ],
)
def test_what_is_wrong_with_a_node_is_none(error: Exception) -> None:
    assert shortage_of(error) == ""


def test_a_shortage_of_a_child_that_was_asked_is_one() -> None:
    def short() -> list[str]:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with pytest.raises(OSError, match="to try: Cannot allocate memory") as raised:
        bounded(short, 30, "to try")
    assert shortage_of(raised.value)
