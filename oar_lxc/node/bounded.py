"""Calls that may block for longer than a hook has, made where they can be given up."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable

from oar_lxc.errors import OarLxcError, TooLateError

PATIENCE = 1.0  # seconds that the end of a killed child may take


def bounded(act: Callable[[], list[str]], timeout: float, what: str) -> list[str]:
    """Call a function in a child process, which is killed when the time is over.

    Args:
        act: the function.
        timeout: seconds.
        what: what it does, for the error.

    Raises:
        TooLateError: it took longer than that.
        OarLxcError: the function raised one.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _answer(act, writer)
        finally:
            os._exit(0)
    os.close(writer)
    end = time.monotonic() + timeout
    answer = b""
    try:
        while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            answer += part
        else:
            raise TooLateError(f"{what} took longer than {timeout:.1f} s")
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        bury(child)
    result: list[str] | str = json.loads(answer) if answer else f"{what} failed"
    if isinstance(result, str):
        raise OarLxcError(result)
    return result


def bury(child: int) -> None:
    """Wait for a killed child's end, unless the kernel holds it: it is init's to wait for then."""
    end = time.monotonic() + PATIENCE
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.001)


def _answer(act: Callable[[], list[str]], writer: int) -> None:
    result: list[str] | str
    try:
        result = act()
    except OarLxcError as error:
        result = str(error)
    with os.fdopen(writer, "w") as file:
        json.dump(result, file)
