"""Calls with a time limit, for those that may block for longer than a hook has."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from oar_lxc.errors import OarLxcError, TooLateError

_Answer = list[str] | str | dict[str, Any]  # result, OarLxcError, OSError
PATIENCE = 1.0  # seconds to wait for the end of a killed child


def bounded(act: Callable[[], list[str]], timeout: float, what: str) -> list[str]:
    """Call a function in a child process, and kill the child when the time is over.

    Args:
        act: the function.
        timeout: seconds.
        what: what the function does, for the error.

    Raises:
        TooLateError: the function took longer than ``timeout``.
        OarLxcError: the function raised it.
        OSError: the function raised it, or the kernel refused a child process.
    """
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
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
    result: _Answer = json.loads(answer) if answer else f"{what} failed"
    if isinstance(result, dict):
        raise OSError(result["errno"], f"{what}: {result['error']}")
    if isinstance(result, str):
        raise OarLxcError(result)
    return result


def bury(child: int) -> None:
    """Wait for a killed child's end, but leave a child that the kernel holds to init."""
    end = time.monotonic() + PATIENCE
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.001)


def _answer(act: Callable[[], list[str]], writer: int) -> None:
    result: _Answer
    try:
        result = act()
    except OarLxcError as error:
        result = str(error)
    except OSError as error:
        result = {"errno": error.errno, "error": error.strerror or str(error)}
    except MemoryError:
        result = {"errno": errno.ENOMEM, "error": os.strerror(errno.ENOMEM)}
    with os.fdopen(writer, "w") as file:
        json.dump(result, file)
