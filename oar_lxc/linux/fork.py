"""Do what another Python process would do in a fork of this one, where that is safe.

A new interpreter loads for 50 ms what this process has loaded already.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn


def may_fork() -> bool:
    """Whether a fork of this process can go on in Python: no other thread holds a lock."""
    return len(os.listdir("/proc/self/task")) == 1


def become(
    main: Callable[[], None], argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> NoReturn:
    """Run a program's ``main`` in the place of this process, which has just been forked.

    Nothing of what the process was for goes on: neither its signal handlers, nor its open files
    beyond the first three, nor what it would do at its end.

    Args:
        main: the program; it may end by SystemExit.
        argv: what it finds in ``sys.argv``.
        environ: its environment, the caller's where None.
    """
    status = 1
    try:
        gc.disable()  # what is garbage is the first process's to close and to remove
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)  # as an interpreter that starts does
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.argv = list(argv)
        if environ is not None:
            given = dict(environ)  # it may be the very one that is cleared
            os.environ.clear()
            os.environ.update(given)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
            for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        main()
        sys.stdout.flush()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
