"""Run one command in many containers of a node at once, and pass on its output."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

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
    enter_cgroups(node.published.cgroups, node.published.unit)
    command = replace(request, containers=tuple(names))
    execute(node.runtime, command, node.emit, node.abandoned)


def execute(
    runtime: Runtime,
    command: Exec,
    emit: Emit,
    abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """Run a command in several containers at once.

    Events: ``Output`` with whole lines, except that a line of :data:`CHUNK` bytes or more is cut.
    Then for each container ``Exit``, or ``Failed`` if the command could not be started there.

    Args:
        runtime: the containers of this node.
        command: the command, which is found through PATH inside the container, and the names of
            the containers to run it in.
        emit: called with each event.
        abandoned: whether the caller is gone; the commands are then killed.

    Raises:
        OarLxcError: the caller is gone.
    """
    selector = selectors.DefaultSelector()
    running: list[_Running] = []
    end = NEVER if command.timeout is None else Deadline.after(command.timeout)
    try:
        for name in command.containers or ():
            try:
                running.append(_begin(runtime, name, command, selector))
            except ContainerError as error:
                emit(Failed.of(error))
        while running:
            for key, _ in selector.select(_POLL):
                _transfer(key, selector, emit)
            if abandoned():
                raise OarLxcError("whoever asked for the command is gone")
            for one in list(running):
                if _finished(one, end.passed):
                    _close(one, selector)
                    running.remove(one)
                    for stream, rest in one.rest.items():  # a line that the timeout cut off
                        text = rest.decode("utf-8", "surrogateescape")
                        emit(Output(one.name, stream, text))
                    emit(Exit(one.name, one.status or 0))
    finally:
        for one in running:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
            _close(one, selector)
        selector.close()


def _begin(
    runtime: Runtime,
    name: str,
    command: Exec,
    selector: selectors.BaseSelector,
) -> _Running:
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        running = _Running(name, runtime.attach(name, command.argv, in_r, out_w, err_w))
    except BaseException:
        for fd in (in_w, out_r, err_r):
            os.close(fd)
        raise
    finally:
        for fd in (in_r, out_w, err_w):
            os.close(fd)
    for fd, stream in ((out_r, "stdout"), (err_r, "stderr")):
        running.open.add(fd)
        selector.register(fd, selectors.EVENT_READ, (running, stream, b""))
    if stdin := command.stdin.encode("utf-8", "surrogateescape"):
        os.set_blocking(in_w, False)
        running.open.add(in_w)
        selector.register(in_w, selectors.EVENT_WRITE, (running, "stdin", stdin))
    else:
        os.close(in_w)
    return running


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
