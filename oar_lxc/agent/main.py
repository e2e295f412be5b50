"""The agent's program, which acts on one node as the job's user.

The session starts ``oar_lxc.agent.main JOB OPERATION`` through oarsh on each node of the job. The
agent writes :data:`oar_lxc.model.wire.UP`, then reads one request from its standard input, and
writes events to its standard output; :mod:`oar_lxc.model.wire` defines both. The last event is
:class:`~oar_lxc.model.events.Done` or :class:`~oar_lxc.model.events.Error`.
"""

from __future__ import annotations

import os
import select
import sys
from importlib import import_module

from oar_lxc.agent.node import OnNode
from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.linux.background import in_background
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.linux.error_exit import exit_on_error
from oar_lxc.model.events import Done, Error, Event
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.published import PublishedJob
from oar_lxc.model.requests import Launch, Request
from oar_lxc.model.wire import REQUESTS, UP, NoMessageError, decode, encode

HEARTBEAT_SECONDS = 1.0
# The function for each kind of request. Its module is imported only when it is called: a launch
# does not wait for modules that it does not need.
OPERATIONS = {
    "launch": "oar_lxc.agent.launch:launch",
    "ready": "oar_lxc.agent.launch:ready",
    "destroy": "oar_lxc.agent.control:destroy",
    "start": "oar_lxc.agent.control:start",
    "stop": "oar_lxc.agent.control:stop",
    "restart": "oar_lxc.agent.control:restart",
    "freeze": "oar_lxc.agent.control:freeze",
    "unfreeze": "oar_lxc.agent.control:unfreeze",
    "exec": "oar_lxc.agent.execute:execute_request",
    "watch": "oar_lxc.agent.watch:watch_request",
    "list": "oar_lxc.agent.status:list_containers",
    "show": "oar_lxc.agent.status:show_containers",
    "keys": "oar_lxc.agent.status:send_job_key",
    "networks": "oar_lxc.agent.networks:send_networks",
    "emulate": "oar_lxc.agent.networks:emulate",
    "plug": "oar_lxc.agent.networks:plug",
    "timeline": "oar_lxc.agent.status:send_timeline",
    "images": "oar_lxc.agent.images:list_images",
    "allot": "oar_lxc.agent.ledger:allot_request",
    "release": "oar_lxc.agent.ledger:release_request",
}


def carry_out(node: OnNode, request: Request) -> None:
    """Carry out a request.

    Args:
        node: the node to act on.
        request: the request.

    Raises:
        OarLxcError: the request failed as a whole; a failure of one container is an event.
    """
    module, _, name = OPERATIONS[request.kind].partition(":")
    try:
        getattr(import_module(module), name)(node, request)
    except ContainerError as error:  # the caller adds the node's name
        raise ContainerError(error.container, "", error.reason, error.log) from error


def _emit_line(event: Event) -> None:
    sys.stdout.write(encode(event).decode() + "\n")
    sys.stdout.flush()


class _Reader:
    """The process that reads this program's standard output.

    Args:
        heartbeat: whether to write an empty line every second, so that oarsh between the two
            notices when the reader is gone.
    """

    def __init__(self, heartbeat: bool) -> None:
        self._due = Deadline.after(HEARTBEAT_SECONDS) if heartbeat else NEVER

    def is_gone(self) -> bool:
        """Whether the reader is gone; write the heartbeat when it is due."""
        if self._due.passed:
            self._due = Deadline.after(HEARTBEAT_SECONDS)
            sys.stdout.write("\n")
            sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def read_request(operation: str, line: str) -> Request:
    """Parse a line as a request for an operation.

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


def _get_ready(published: PublishedJob, runtime: LxcRuntime) -> None:
    """Do what each launch takes long for, while the session makes the request."""
    # It waits for the kernel or systemd.
    with in_background(lambda: enter_cgroups(published.cgroups, published.unit)):
        import_module("oar_lxc.agent.launch")
    runtime.come_up()


def main() -> None:
    """Carry out one operation; tell a failure by an event and by the exit status."""
    with exit_on_error(lambda text: _emit_line(Error(text))):
        os.umask(0o022)  # whatever the user's shell has set
        # Begin a new line: the login shell may have written text without a newline.
        sys.stdout.write(f"\n{UP.decode()}\n")
        sys.stdout.flush()
        if len(sys.argv) != 3:
            raise UsageError("usage: oar_lxc.agent.main JOB OPERATION <REQUEST")
        operation = sys.argv[2]
        layout, published = open_job(check_job_id(sys.argv[1]))
        os.environ.update(environ_here(layout))
        namespaces = JobNamespaces(layout)
        namespaces.enter()
        runtime = LxcRuntime(layout.containers, namespaces, published.node, published.unified)
        if REQUESTS.get(operation) is Launch:
            _get_ready(published, runtime)
        request = read_request(operation, sys.stdin.readline())
        abandoned = _Reader(request.heartbeat).is_gone
        node = OnNode(layout, published, runtime, _emit_line, abandoned)
        carry_out(node, request)
        _emit_line(Done())


if __name__ == "__main__":
    main()
