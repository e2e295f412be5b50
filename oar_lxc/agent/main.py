"""What acts on one node as the job's user: ``oar_lxc.agent.main JOB OPERATION``.

The session starts it through oarsh on each node of the job. It writes
:data:`oar_lxc.model.wire.UP`, is then given one request on its standard input, and writes
events to its standard output, both JSON, an object a line. Every event has a key ``event``; the
last one is ``done`` or ``error``.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from oar_lxc.agent.node import OnNode
from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.container.runtime import LxcRuntime
from oar_lxc.errors import ContainerError, UsageError
from oar_lxc.linux.ending import one_sentence
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.wire import HEARTBEAT, UP

HEARTBEAT_SECONDS = 1.0
# Where each operation is: a launch waits for no module that it does not need.
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


def carry_out(node: OnNode, operation: str, request: Mapping[str, Any]) -> None:
    """Carry out one operation.

    Args:
        node: where.
        operation: one of :data:`OPERATIONS`.
        request: what it asks for; see the operation.

    Raises:
        OarLxcError: it failed as a whole; what fails of single containers is an event.
    """
    if operation not in OPERATIONS:
        raise UsageError(f"operation {operation!r}; known: {', '.join(OPERATIONS)}")
    module, _, name = OPERATIONS[operation].partition(":")
    try:
        getattr(import_module(module), name)(node, request)
    except ContainerError as error:  # whoever asked names the node
        raise ContainerError(error.container, "", error.reason, error.log) from error


def _emit_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
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


def _request(line: str) -> dict[str, Any]:
    try:
        request = json.loads(line or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise UsageError("the request is no JSON object")
    return request


def main() -> None:
    """Carry out one operation; failures are events, and the exit status."""
    with one_sentence(lambda text: _emit_line({"event": "error", "reason": text})):
        os.umask(0o022)  # whatever the user's shell has set
        # What the shell wrote before may lack the end of its line.
        sys.stdout.write(f"\n{UP.decode()}\n")
        sys.stdout.flush()
        if len(sys.argv) != 3:
            raise UsageError("usage: oar_lxc.agent.main JOB OPERATION <REQUEST")
        request = _request(sys.stdin.readline())
        layout, published = open_job(check_job_id(sys.argv[1]))
        os.environ.update(environ_here(layout))
        runtime = LxcRuntime(layout.containers, published.node)
        abandoned = _Reader(bool(request.get(HEARTBEAT))).is_gone
        node = OnNode(layout, published, runtime, _emit_line, abandoned)
        carry_out(node, sys.argv[2], request)
        _emit_line({"event": "done"})


if __name__ == "__main__":
    main()
