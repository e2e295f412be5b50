"""What all tests share."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let signals end what tests start, also where this was started to ignore them.

    nohup(1) ignores SIGHUP, and a shell that puts a command into the background ignores SIGINT:
    programs inherit that.
    """
    for number, action in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, action)
