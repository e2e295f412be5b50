"""Tell whether an error comes from a shortage of what users share, such as memory.

Any user of a node can use it up for a while: processes, memory, open files, buffers, inodes. So a
shortage is a job's bad luck. It is no fault of the node, for which OAR would take the node out of
service.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

from oar_lxc.errors import CommandError
from oar_lxc.linux.signals import shell_status

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk
SHORT = (
    *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EUSERS),
    *FULL,
)
# Words of programs for these errors; the last is from the dynamic linker.
_WORDS = (*map(os.strerror, SHORT), "Cannot fork", "failed to map segment")


def shortage_of(error: BaseException) -> str:
    """Return the text of the error that tells of a shortage; empty if there was none."""
    for one in _causes(error):
        if isinstance(one, MemoryError):
            return os.strerror(errno.ENOMEM)
        if isinstance(one, OSError) and one.errno in SHORT:
            return str(one)
        if isinstance(one, CommandError):
            # Where memory is short, the kernel kills any process with SIGKILL.
            killed = one.status in (-signal.SIGKILL, shell_status(-signal.SIGKILL))
            if killed or any(word in one.stderr for word in _WORDS):
                return str(one)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
