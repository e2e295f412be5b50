"""Handle the signals that end a job, so that they do not cut a clean-up short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR2 is OAR's default checkpoint signal (oarsub --signal changes it).
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # by every interpreter that starts


def default_signals() -> None:
    """Give the signals that Python ignores back to a program that takes this process over."""
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)


def shell_status(code: int) -> int:
    """Return an exit status in the form of shells: 128 + the signal if one ended the process.

    Args:
        code: of :func:`os.waitstatus_to_exitcode`, less than 0 for a signal.
    """
    return code if code >= 0 else 128 - code


class Checkpoint(SystemExit):
    """OAR's checkpoint signal: the job shall end, and still has time for its clean-up."""


@contextmanager
def raising_signals() -> Iterator[None]:
    """Let the signals that end a job raise an exception, so that ``with`` blocks end.

    SIGINT raises KeyboardInterrupt as always, SIGUSR2 :class:`Checkpoint`, SIGTERM SystemExit.
    The exit status is 128 + the signal. Only the main thread can do this; in another thread,
    signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        kind = Checkpoint if number == signal.SIGUSR2 else SystemExit
        raise kind(shell_status(-number))

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Ignore further signals during a clean-up; OAR's SIGKILL ends one that hangs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
