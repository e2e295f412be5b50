"""The exit status of a command that runs on a machine made for it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.signals import raising_signals
from oar_lxc.sandbox.report import Report


def exit_status(program: str, work: Callable[[Report], int]) -> int:
    """Return the exit status of a command, or 1 where there is no machine to run it on.

    Args:
        program: who speaks, for errors.
        work: makes the machine, runs the command there, and returns its status.
    """
    report = Report(lambda line: print(line, flush=True))
    try:
        with raising_signals():
            status = work(report)
            report.line(f"exit status {status}")
    except OarLxcError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
