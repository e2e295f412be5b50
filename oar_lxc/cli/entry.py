"""Where ``oar-lxc`` begins: Ctrl-C while Python still imports ends it without a traceback."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 128 + signal.SIGINT  # as a shell has it, and as a later Ctrl-C ends the program


def main() -> None:
    """Import the command line and run it.

    An exception would not do for the import: in some places, Python prints it and goes on.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # under nohup, or in the background of a script, it is ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from oar_lxc.cli.main import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
