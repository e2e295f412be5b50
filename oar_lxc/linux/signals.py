"""Signals that end a job, and what they must not cut short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR2 is OAR's default checkpoint signal (oarsub --signal changes it).
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def shell_status(code: int) -> int:
    """Return an exit status as shells have it: 128 + the signal where one ended the process.

    Args:
        code: of :func:`os.waitstatus_to_exitcode`, less than 0 for a signal.
    """
    return code if code >= 0 else 128 - code


class Checkpoint(SystemExit):
    """OAR's checkpoint signal: the job is asked to end, and has time to do so in order."""


@contextmanager
def raising_signals() -> Iterator[None]:
    """Let the signals that end a job unwind the program, so that ``with`` blocks end.

    SIGINT raises KeyboardInterrupt as ever, SIGUSR2 :class:`Checkpoint`, SIGTERM SystemExit; the
    exit status is 128 + the signal.
    Only the main thread can do this; elsewhere signals are left to the program.
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
    """Let no second signal cut a clean-up short: OAR's SIGKILL is what ends one that hangs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
