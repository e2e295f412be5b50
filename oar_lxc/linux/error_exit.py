"""End a program of oar-lxc after an error with one sentence and no traceback.

The variable OAR_LXC_DEBUG or ``oar-lxc -v`` asks for the traceback too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.signals import shell_status

DEBUG = "OAR_LXC_DEBUG"
FAILED = 1
INTERRUPTED = shell_status(-signal.SIGINT)


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def debug_words() -> list[str]:
    """Return the words before a command on another node that ask for tracebacks there, too."""
    return ["env", f"{DEBUG}=1"] if debugging() else []


def sentence(error: BaseException, node: str = "") -> str:
    """Return the sentence for an error.

    Args:
        error: the error; an OarLxcError brings its own sentence.
        node: where the error happened; named in the sentences of all other errors.
    """
    if isinstance(error, OarLxcError):
        return str(error)
    where = f"node {node}: " if node else ""
    if isinstance(error, OSError) and error.strerror:
        names = [
            os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
        ]
        return where + ": ".join((*names, error.strerror))
    return (
        f"{where}{type(error).__name__}: {error} ({_place(error)}): this is a mistake in oar-lxc, "
        f"please report it; {DEBUG}=1 shows more"
    )


def _place(error: BaseException) -> str:
    """Return the file and the line that raised an error."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "nowhere"


@contextmanager
def exit_on_error(tell: Callable[[str], None], node: str = "") -> Iterator[None]:
    """End the process with a sentence and an exit status if the block raises an error.

    Args:
        tell: called with the sentence.
        node: see :func:`sentence`.

    Raises:
        SystemExit: there was an error.
    """
    try:
        yield
    except KeyboardInterrupt:
        show_traceback()
        sys.exit(INTERRUPTED)
    except Exception as error:
        with suppress(OSError):  # no reader is left
            tell(sentence(error, node))
        show_traceback()
        sys.exit(error.exit_status if isinstance(error, OarLxcError) else FAILED)


def show_traceback() -> None:
    """Print the traceback of the current error if the user asked for tracebacks."""
    if debugging():
        import traceback  # takes 10 ms, so only when a program fails

        with suppress(OSError):
            traceback.print_exc()


def tell_on_stderr(text: str) -> None:
    """Write a sentence after the name of the program."""
    sys.stderr.write(f"oar-lxc: {text}\n")
    sys.stderr.flush()
