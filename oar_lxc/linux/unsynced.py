"""Run a program whose syncs do nothing, for files that are thrown away if the machine stops.

dpkg alone syncs each file and each change of its database, which takes a third or more of the time
of an installation. A filter of system calls makes each sync succeed at once. It holds for all
programs below, also for static ones and for those in another root directory.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

from oar_lxc.linux.isolated import isolated

# By machine: the kernel's AUDIT_ARCH_*, and the numbers of sync, fsync, fdatasync, syncfs and
# sync_file_range.
_CALLS = {
    "x86_64": (0xC000003E, (162, 74, 75, 306, 277)),
    "aarch64": (0xC00000B7, (81, 82, 83, 267, 84)),
}
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_DONE = 0x00050000  # an error of number 0, which is none
# Instructions of linux/bpf_common.h, and offsets in struct seccomp_data.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE = 0, 4


class _Filter(ctypes.Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def unsynced(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another as root without syncs.

    On machines whose system calls are not in :data:`_CALLS`, it syncs.
    """
    return isolated("oar_lxc.linux.unsynced", argv)


def main() -> None:
    """Install the filter, and execute the command in the arguments."""
    _take_syncs_for_done(os.uname().machine)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program is the command's


def _take_syncs_for_done(machine: str) -> None:
    if machine not in _CALLS:
        return
    architecture, numbers = _CALLS[machine]
    left = len(numbers)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, left + 1, architecture),
        (_LOAD, 0, 0, _NUMBER),
        *((_JUMP_IF_EQUAL, left - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DONE),
    ]
    text = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    # If the kernel lacks such filters, or refuses this one, the program is only slower.
    ctypes.CDLL(None).prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Filter(len(code), text)), 0, 0
    )
