"""Whether something failed because the machine had no more of what users share, as memory.

Any user of a node can use it up for a while: processes, memory, open files, buffers, inodes. So it
is a job's bad luck, not a fault of the node, which would be taken out of service.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

from oar_lxc.errors import CommandError

FULL = (errno.ENOSPC, errno.EDQUOT)  # which a disk may say, too
SHORT = (
    *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EUSERS),
    *FULL,
)
# What programs say in the place of a number; the last is the dynamic linker's.
_WORDS = (*map(os.strerror, SHORT), "Cannot fork", "failed to map segment")


def shortage_of(error: BaseException) -> str:
    """Return what there was no more of, in the words of who met it; empty for other errors."""
    for one in _causes(error):
        if isinstance(one, MemoryError):
            return os.strerror(errno.ENOMEM)
        if isinstance(one, OSError) and one.errno in SHORT:
            return str(one)
        if isinstance(one, CommandError):
            # The kernel kills whom it likes where memory is short, by a signal that is no shell's.
            killed = one.status in (-signal.SIGKILL, 128 + signal.SIGKILL)
            if killed or any(word in one.stderr for word in _WORDS):
                return str(one)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
