"""Run one command in many containers of a node at once, and pass on its output."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from oar_lxc.agent.node import Emit, OnNode
from oar_lxc.container.runtime import Runtime
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.signals import shell_status
from oar_lxc.model.events import Exit, Failed, Output
from oar_lxc.model.requests import Exec

CHUNK = 65536
_POLL = 0.05  # seconds between looks at whether a process without output has ended


@dataclass
class _Running:
    """A command that runs in one container, and our ends of its pipes that are still open."""

    name: str
    pid: int
    open: set[int] = field(default_factory=set)
    rest: dict[str, bytes] = field(default_factory=dict)  # the unfinished line of each stream
    status: int | None = None


def execute_request(node: OnNode, request: Exec) -> None:
    """Run a command in containers of this node; an operation of the agent."""
    wanted = request.containers
    present = node.runtime.names()
    names = present if wanted is None else [name for name in wanted if name in present]
    enter_cgroups(node.published.cgroups)
    stdin = request.stdin.encode("utf-8", "surrogateescape")
    execute(node.runtime, names, request.argv, stdin, request.timeout, node.emit, node.abandoned)


def execute(
    runtime: Runtime,
    names: Sequence[str],
    argv: Sequence[str],
    stdin: bytes,
    timeout: float | None,
    emit: Emit,
    abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """Run a command in several containers at once.

    Events: ``Output`` with whole lines, except that a line of :data:`CHUNK` bytes or more is cut.
    Then for each container ``Exit``, or ``Failed`` if the command could not be started there.

    Args:
        runtime: the containers of this node.
        names: the containers to run the command in.
        argv: the command; found through PATH inside the container.
        stdin: standard input of the command in each container.
        timeout: seconds; None: no limit.
        emit: called with each event.
        abandoned: whether the caller is gone; the commands are then killed.

    Raises:
        OarLxcError: the caller is gone.
    """
    selector = selectors.DefaultSelector()
    running: list[_Running] = []
    end = NEVER if timeout is None else Deadline.after(timeout)
    try:
        for name in names:
            try:
                running.append(_begin(runtime, name, argv, stdin, selector))
            except ContainerError as error:
                emit(Failed.of(error))
        while running:
            for key, _ in selector.select(_POLL):
                _transfer(key, selector, emit)
            if abandoned():
                raise OarLxcError("whoever asked for the command is gone")
            for command in list(running):
                if _finished(command, end.passed):
                    _close(command, selector)
                    running.remove(command)
                    for stream, rest in command.rest.items():  # a line that the timeout cut off
                        text = rest.decode("utf-8", "surrogateescape")
                        emit(Output(command.name, stream, text))
                    emit(Exit(command.name, command.status or 0))
    finally:
        for command in running:
            with suppress(ProcessLookupError):
                os.kill(command.pid, signal.SIGKILL)
            _close(command, selector)
        selector.close()


def _begin(
    runtime: Runtime,
    name: str,
    argv: Sequence[str],
    stdin: bytes,
    selector: selectors.BaseSelector,
) -> _Running:
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        command = _Running(name, runtime.attach(name, argv, in_r, out_w, err_w))
    except BaseException:
        for fd in (in_w, out_r, err_r):
            os.close(fd)
        raise
    finally:
        for fd in (in_r, out_w, err_w):
            os.close(fd)
    for fd, stream in ((out_r, "stdout"), (err_r, "stderr")):
        command.open.add(fd)
        selector.register(fd, selectors.EVENT_READ, (command, stream, b""))
    if stdin:
        os.set_blocking(in_w, False)
        command.open.add(in_w)
        selector.register(in_w, selectors.EVENT_WRITE, (command, "stdin", stdin))
    else:
        os.close(in_w)
    return command


def _transfer(
    key: selectors.SelectorKey,
    selector: selectors.BaseSelector,
    emit: Emit,
) -> None:
    command, stream, rest = key.data
    if stream == "stdin":
        try:
            rest = rest[os.write(key.fd, rest) :]
        except BrokenPipeError:
            rest = b""
        if rest:
            selector.modify(key.fd, selectors.EVENT_WRITE, (command, stream, rest))
            return
    else:
        data = os.read(key.fd, CHUNK)
        lines = _whole_lines(command, stream, data)
        if lines:
            emit(Output(command.name, stream, lines.decode("utf-8", "surrogateescape")))
        if data:
            return
    selector.unregister(key.fd)
    os.close(key.fd)
    command.open.discard(key.fd)


def _whole_lines(command: _Running, stream: str, data: bytes) -> bytes:
    """Return the bytes that can be passed on, and keep the rest for the next call.

    Passed on are whole lines, everything at the end of the stream, and a line that is too long.
    A long line is not cut inside a UTF-8 character.

    Args:
        command: the command, which keeps the rest.
        stream: ``stdout`` or ``stderr``.
        data: the bytes read now; empty at the end of the stream.
    """
    text = command.rest.pop(stream, b"") + data
    end = text.rfind(b"\n") + 1
    if not data:
        end = len(text)
    elif len(text) - end >= CHUNK:
        end = len(text) - _begun_character(text)
    if end < len(text):
        command.rest[stream] = text[end:]
    return text[:end]


def _begun_character(text: bytes) -> int:
    """Return how many bytes at the end begin a UTF-8 character that is not complete, 0 to 3."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoder.decode(text[-8:])
    return len(decoder.getstate()[0])


def _finished(command: _Running, late: bool) -> bool:
    """Whether a command is over: it ended and its output is read, or its time is up.

    Kill it if its time is up.
    """
    if command.status is None:
        pid, status = os.waitpid(command.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            command.status = shell_status(code)
        elif late:
            os.kill(command.pid, signal.SIGKILL)
            os.waitpid(command.pid, 0)
            command.status = 124
            return True
    return command.status is not None and (not command.open or late)


def _close(command: _Running, selector: selectors.BaseSelector) -> None:
    for fd in command.open:
        selector.unregister(fd)
        os.close(fd)
    command.open.clear()
