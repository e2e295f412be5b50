"""How programs of ours end where something is wrong: with one sentence, and no traceback.

The traceback is for whoever asks for it, with the variable OAR_LXC_DEBUG or ``oar-lxc -v``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from oar_lxc.errors import OarLxcError

DEBUG = "OAR_LXC_DEBUG"
FAILED = 1
INTERRUPTED = 128 + signal.SIGINT


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def debug_words() -> list[str]:
    """Return what comes before a command on another node for tracebacks to be told of there."""
    return ["env", f"{DEBUG}=1"] if debugging() else []


def sentence(error: BaseException, node: str = "") -> str:
    """Return what is told of an error.

    Args:
        error: the error; one of ours has its own words.
        node: where it happened, for the words of others.
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
def one_sentence(tell: Callable[[str], None], node: str = "") -> Iterator[None]:
    """End the process where the block raises an error: with a sentence, and its exit status.

    Args:
        tell: is given the sentence.
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
        with suppress(OSError):  # nobody is there to be told
            tell(sentence(error, node))
        show_traceback()
        sys.exit(error.exit_status if isinstance(error, OarLxcError) else FAILED)


def show_traceback() -> None:
    """Print the traceback of the error that is handled, where the user asked for it."""
    if debugging():
        import traceback  # takes 10 ms, which nobody waits for whose program does not fail

        with suppress(OSError):
            traceback.print_exc()


def tell_on_stderr(text: str) -> None:
    """Write a sentence after the name of the program."""
    sys.stderr.write(f"oar-lxc: {text}\n")
    sys.stderr.flush()
