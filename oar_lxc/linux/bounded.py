"""Calls with a time limit, for those that may block for longer than a hook has."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.deadline import Deadline

_Answer = list[str] | str | dict[str, Any]  # result, OarLxcError, OSError
PATIENCE = 1.0  # seconds to wait for the end of a killed child
ANSWER = 3  # the descriptor that a child writes to
_DESCRIPTORS = 1 << 20


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
    end = Deadline.after(timeout)
    answer = b""
    with in_child(lambda: _answer(act)) as (_, reader):
        while select.select([reader], [], [], end.left())[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            answer += part
        else:
            raise TooLateError(f"{what} took longer than {timeout:.1f} s")
    result: _Answer = json.loads(answer) if answer else f"{what} failed"
    if isinstance(result, dict):
        raise OSError(result["errno"], f"{what}: {result['error']}")
    if isinstance(result, str):
        raise OarLxcError(result)
    return result


@contextmanager
def in_child(
    act: Callable[[], object], patience: float | None = None
) -> Iterator[tuple[int, int]]:
    """Call a function in a child process, and kill the child at the end of the block.

    The kernel may not let the child die, as while it waits for a dead file server. So the child
    keeps nothing that others wait for: no lock and no stream of its parent's. What the function
    starts is in the child's process group, which dies with it.

    Args:
        act: the function; it writes to :data:`ANSWER`.
        patience: seconds to wait for the child's end; :data:`PATIENCE` by default.

    Yields:
        The child, and the descriptor with what the function writes.

    Raises:
        OSError: there can be no child.
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
            os.setpgid(0, 0)
            _keep_only(writer)
            act()
        finally:
            os._exit(0)
    os.close(writer)
    with suppress(OSError):  # the child has done it, or is gone
        os.setpgid(child, child)
    try:
        yield child, reader
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _bury(child, PATIENCE if patience is None else patience)


def _keep_only(writer: int) -> None:
    """Close all descriptors but one, which becomes :data:`ANSWER`."""
    os.dup2(writer, ANSWER)
    os.closerange(ANSWER + 1, _DESCRIPTORS)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(ANSWER):
        os.dup2(null, fd)
    if null > ANSWER:
        os.close(null)


def _bury(child: int, patience: float) -> None:
    """Wait for a killed child's end, but leave a child that the kernel holds to init."""
    end = Deadline.after(patience)
    while os.waitpid(child, os.WNOHANG)[0] == 0 and not end.passed:
        time.sleep(0.001)


def _answer(act: Callable[[], list[str]]) -> None:
    result: _Answer
    try:
        result = act()
    except OarLxcError as error:
        result = str(error)
    except OSError as error:
        result = {"errno": error.errno, "error": error.strerror or str(error)}
    except MemoryError:
        result = {"errno": errno.ENOMEM, "error": os.strerror(errno.ENOMEM)}
    with os.fdopen(ANSWER, "w") as file:
        json.dump(result, file)
