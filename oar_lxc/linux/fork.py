"""Run a Python program in a fork of this process instead of a new interpreter.

A new interpreter takes 50 ms to load what this process has loaded already.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from oar_lxc.linux.signals import IGNORED_BY_PYTHON


def may_fork() -> bool:
    """Whether a fork of this process can run another program of this package.

    No other thread may hold a lock. And the package must not have been upgraded since it was
    loaded, as modules of two versions do not fit together; a new interpreter loads those of one.
    """
    return len(os.listdir("/proc/self/task")) == 1 and _files() == _LOADED


def _files() -> tuple[int, int] | None:
    """Return what tells the package's present files from those of another version."""
    with suppress(OSError):
        status = (Path(__file__).parents[1] / "__init__.py").stat()
        return status.st_ino, status.st_mtime_ns  # a package manager makes each file anew
    return None


_LOADED = _files()  # at the first use it could be too late


def become(
    main: Callable[[], None], argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> NoReturn:
    """Run a program's ``main`` in this process, which has just been forked, and exit.

    The program inherits no signal handlers, no open files beyond the first three, and no exit
    handlers.

    Args:
        main: the program; it may end by SystemExit.
        argv: its ``sys.argv``.
        environ: its environment; the caller's if None.
    """
    status = 1
    try:
        gc.disable()  # only the parent may finalize garbage: that closes and removes files
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        for number in IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.argv = list(argv)
        if environ is not None:
            given = dict(environ)  # it may be os.environ itself
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
