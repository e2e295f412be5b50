"""What acts on one node as the job's user: ``oar_lxc.agent.main JOB OPERATION``.

The session starts it through oarsh on each node of the job. It writes
:data:`oar_lxc.model.wire.UP`, is then given one request on its standard input, and writes
events to its standard output, as :mod:`oar_lxc.model.wire` has them; the last one is
:class:`~oar_lxc.model.wire.Done` or :class:`~oar_lxc.model.wire.Error`.
"""

from __future__ import annotations

import os
import select
import sys
import time
from importlib import import_module

from oar_lxc.agent.node import OnNode
from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.container.runtime import LxcRuntime
from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.linux.ending import one_sentence
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.wire import (
    REQUESTS,
    UP,
    Done,
    Error,
    Event,
    NoMessageError,
    Request,
    decode,
    encode,
)

HEARTBEAT_SECONDS = 1.0
# Where what carries out each kind of request is: a launch waits for no module that it does not
# need.
OPERATIONS = {
    "launch": "oar_lxc.agent.launch:launch",
    "ready": "oar_lxc.agent.launch:ready",
    "destroy": "oar_lxc.agent.control:destroy",
    "start": "oar_lxc.agent.control:start",
    "stop": "oar_lxc.agent.control:stop",
    "restart": "oar_lxc.agent.control:restart",
    "freeze": "oar_lxc.agent.control:freeze",
    "unfreeze": "oar_lxc.agent.control:unfreeze",
    "exec": "oar_lxc.agent.execute:execute_asked",
    "watch": "oar_lxc.agent.watch:watch_asked",
    "list": "oar_lxc.agent.status:tell_containers",
    "show": "oar_lxc.agent.status:tell_all",
    "keys": "oar_lxc.agent.status:tell_keys",
    "timeline": "oar_lxc.agent.status:tell_timeline",
    "images": "oar_lxc.agent.images:tell_images",
    "allot": "oar_lxc.agent.ledger:allot_asked",
    "release": "oar_lxc.agent.ledger:release_asked",
}


def carry_out(node: OnNode, request: Request) -> None:
    """Carry out a request.

    Args:
        node: where.
        request: what is asked for.

    Raises:
        OarLxcError: it failed as a whole; what fails of single containers is an event.
    """
    module, _, name = OPERATIONS[request.kind].partition(":")
    try:
        getattr(import_module(module), name)(node, request)
    except ContainerError as error:  # whoever asked names the node
        raise ContainerError(error.container, "", error.reason, error.log) from error


def _emit_line(event: Event) -> None:
    sys.stdout.write(encode(event).decode() + "\n")
    sys.stdout.flush()


class _Reader:
    """Who reads standard output, as seen from here.

    Args:
        heartbeat: whether it is to be written to every second, for what is between to notice.
    """

    def __init__(self, heartbeat: bool) -> None:
        self._due = time.monotonic() + HEARTBEAT_SECONDS if heartbeat else float("inf")

    def is_gone(self) -> bool:
        """Whether nobody reads any more."""
        if time.monotonic() > self._due:
            self._due = time.monotonic() + HEARTBEAT_SECONDS
            sys.stdout.write("\n")
            sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def read_request(operation: str, line: str) -> Request:
    """Return the request that a line is.

    Raises:
        UsageError: there is no such operation, or the line is no request for it.
    """
    try:
        request = decode(line, REQUESTS, operation)
    except NoMessageError as error:
        raise UsageError(f"the request for {operation} is wrong: {error}") from error
    if request is None:
        raise UsageError(f"operation {operation!r}; known: {', '.join(OPERATIONS)}")
    return request


def main() -> None:
    """Carry out one operation; failures are events, and the exit status."""
    with one_sentence(lambda text: _emit_line(Error(text))):
        os.umask(0o022)  # whatever the user's shell has set
        # What the shell wrote before may lack the end of its line.
        sys.stdout.write(f"\n{UP.decode()}\n")
        sys.stdout.flush()
        if len(sys.argv) != 3:
            raise UsageError("usage: oar_lxc.agent.main JOB OPERATION <REQUEST")
        line = sys.stdin.readline()
        layout, published = open_job(check_job_id(sys.argv[1]))
        request = read_request(sys.argv[2], line)
        os.environ.update(environ_here(layout))
        runtime = LxcRuntime(layout.containers, published.node)
        abandoned = _Reader(request.heartbeat).is_gone
        node = OnNode(layout, published, runtime, _emit_line, abandoned)
        carry_out(node, request)
        _emit_line(Done())


if __name__ == "__main__":
    main()
