"""Run the agent on many nodes of a job at once, and pass on its events.

:mod:`oar_lxc.remote.fanout` reaches other nodes through oarsh, which runs the agent as the job's
user, in the job's cpuset. On the node of this process, the agent is a plain child.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TypeVar

from oar_lxc.errors import CommandError, NodeError, OarLxcError
from oar_lxc.linux.error_exit import debugging
from oar_lxc.linux.fork import become, may_fork
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.run import Program, read_lines, running
from oar_lxc.model.events import Done, Error, Event, Failed
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.requests import Request
from oar_lxc.model.wire import EVENTS, UP, NoMessageError, decode, encode

_log = get_logger()

OnEvent = Callable[[str, Event], None]
AnyEvent = TypeVar("AnyEvent", bound=Event)


LOST = 255  # the exit status of ssh when the connection fails or is lost
CONNECT_SECONDS = 10  # for ssh to connect to a node
SHELL_SECONDS = 60  # for the login shell to start our program
OARSH = (
    "oarsh",
    "-oForwardAgent=no",
    "-oForwardX11=no",
    f"-oConnectTimeout={CONNECT_SECONDS}",
    "-oBatchMode=yes",
    "-oLogLevel=ERROR",
)
NOT_INSTALLED = re.compile(r"isolated\.py'?: \[Errno 2\]|No module named '?oar_lxc")
OARSH_SAYS = re.compile(r"^oarsh: ", re.MULTILINE)
GONE = re.compile(r"^oarsh: Cannot find (cpuset file|the job's cgroup)", re.MULTILINE)
# How many nodes are reached directly from one node. Each takes about 0.08 s of CPU time for oarsh;
# nodes that are reached through another node wait for two logins of ssh.
WIDTH = 64


@dataclass(frozen=True)
class LateRequest:
    """A request that is made while the agents come up.

    Attributes:
        cls: the class of the request.
        make: makes the request.
    """

    cls: type[Request]
    make: Callable[[], Request]


class Remote:
    """Calls the agents of a job's nodes.

    Args:
        job_id: OAR's job id.
        nodes: names of the job's nodes.
        local: the node that this process runs on; empty on a frontend.
        python: the interpreter that has oar_lxc on the nodes.
    """

    def __init__(
        self, job_id: int, nodes: Sequence[str], local: str = "", python: str = sys.executable
    ) -> None:
        self.job_id = job_id
        self.nodes = tuple(nodes)
        self.local = local
        self._python = python

    def call(
        self,
        request: Request | LateRequest,
        on_event: OnEvent,
        nodes: Sequence[str] | None = None,
    ) -> list[NodeError]:
        """Send a request to the agents of several nodes at once, and wait for all of them.

        Args:
            request: the request.
            on_event: called with the node's name and each event as it comes.
            nodes: the nodes; by default all nodes of the job.

        Returns:
            An error for each node on which the request failed as a whole.
        """
        wanted = self.nodes if nodes is None else tuple(nodes)
        operation = request.cls.kind if isinstance(request, LateRequest) else request.kind
        argv = isolated("oar_lxc.agent.main", [str(self.job_id), operation], self._python)
        _log.info("asking nodes", operation=operation, job=self.job_id, nodes=" ".join(wanted))
        answers = _Answers(on_event)
        environ = {**os.environ, **oarsh_environ(self.job_id)}
        far = [node for node in wanted if node != self.local]
        with ExitStack() as stack:
            agent = fanout = None
            readers: dict[int, Callable[[bytes], None]] = {}
            if self.local in wanted:
                try:
                    agent = stack.enter_context(_running(argv, environ))
                    readers[agent.stdout] = partial(answers.take, self.local)
                except CommandError as failed:
                    answers.end(self.local, failed.status, failed.stderr)
            if far:
                fanout = stack.enter_context(_running(isolated("oar_lxc.remote.fanout"), environ))
                readers[fanout.stdout] = answers.take_far
            asked = request.make() if isinstance(request, LateRequest) else request
            if agent:
                agent.feed(encode(asked) + b"\n")
            if fanout:
                far_asked = encode(replace(asked, heartbeat=True))
                fanout.feed(self._order(far, argv) + far_asked + b"\n")
            read_lines(readers)
            if agent:
                answers.end(self.local, agent.wait(), agent.said())
            if fanout and fanout.wait() != 0:
                raise OarLxcError(f"the fan-out to {', '.join(far)} failed: {fanout.said()}")
        return [error for node in wanted if (error := answers.failure(node))]

    def collect(
        self, request: Request, kind: type[AnyEvent], nodes: Sequence[str] | None = None
    ) -> list[tuple[str, AnyEvent]]:
        """Send a request; return all answers of one kind, each with its node.

        Args:
            request: the request.
            kind: the class of the events to return.
            nodes: the nodes; by default all nodes of the job.

        Raises:
            ContainerError: the request failed for a container.
            NodeError: a node failed as a whole.
        """
        found: list[tuple[str, AnyEvent]] = []
        failures: list[OarLxcError] = []

        def take(node: str, event: Event) -> None:
            if isinstance(event, kind):
                found.append((node, event))
            elif isinstance(event, Failed):
                failures.append(event.error(node))

        failures += self.call(request, take, nodes)
        raise_first(failures)
        return found

    def _order(self, nodes: Sequence[str], argv: Sequence[str]) -> bytes:
        """Return the line of an :class:`oar_lxc.remote.fanout.Order`."""
        order = {"job": self.job_id, "nodes": nodes, "here": "", "argv": argv}
        return json.dumps({**order, "python": self._python, "width": WIDTH}).encode() + b"\n"


def _running(argv: Sequence[str], environ: Mapping[str, str]) -> AbstractContextManager[Program]:
    """Run a module as a program during the block, in a fork of this process if that is possible.

    Args:
        argv: the command, from :func:`oar_lxc.linux.isolated.isolated`.
        environ: the program's environment.
    """
    python, _, _, module, *_ = argv

    def main() -> None:
        import_module(module).main()

    fork = python == sys.executable and may_fork()
    first = partial(become, main, argv[3:], environ) if fork else None
    return running(argv, env=environ, first=first)


def oarsh_environ(job_id: int) -> dict[str, str]:
    """Return the environment variables with which oarsh reaches the nodes of a job.

    In a cpuset, oarsh finds the job by itself; on a frontend, by the job's id. With OAR's cpuset
    off, it needs OAR's key of the job; prepare gave a copy to the user.
    """
    environ = {"OAR_JOB_ID": str(job_id)}
    key = JobLayout(job_id).job_key
    if "OAR_JOB_KEY_FILE" not in os.environ and os.access(key, os.R_OK):
        environ["OAR_JOB_KEY_FILE"] = str(key)
    return environ


class _Answers:
    """Turns the lines of agents into events, and agents that failed into errors."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._reason: dict[str, str] = {}
        self._done: set[str] = set()
        self._begun: set[str] = set()
        self._stderr: dict[str, list[str]] = {}
        self._status: dict[str, int] = {}

    def take(self, node: str, line: bytes) -> None:
        """Take one line of the standard output of a node's agent."""
        if line == UP:
            self._begun.add(node)
        if line in (b"", UP):
            return
        text = line.decode("utf-8", "surrogateescape")
        try:
            event = decode(text, EVENTS)
        except NoMessageError:
            self._stderr.setdefault(node, []).append(text)
            return
        match event:
            case Done():
                self._done.add(node)
            case Error():
                self._reason[node] = event.reason
            case Event():
                self._on_event(node, event)

    def take_far(self, line: bytes) -> None:
        """Take one line of :mod:`oar_lxc.remote.fanout`."""
        if not line:
            return  # a heartbeat
        node, what, *content = json.loads(line)
        if what == "up":
            self._begun.add(node)
        elif what == "line":
            self.take(node, content[0].encode("utf-8", "surrogateescape"))
        elif what == "end":
            self.end(node, *content)

    def end(self, node: str, status: int, said: str = "") -> None:
        """Take the exit status and the standard error of a node's agent."""
        self._status[node] = status
        if said and debugging():
            sys.stderr.write(f"node {node} said:\n{said.rstrip()}\n")
        self._stderr.setdefault(node, []).extend(said.splitlines())

    def failure(self, node: str) -> NodeError | None:
        """Return the error of a node; None if the request was carried out there."""
        if node in self._done:
            return None
        if node in self._reason:
            return NodeError(node, self._reason[node])
        status, said = self._status.get(node, LOST), "\n".join(self._stderr.get(node, []))
        if why := why_not_begun(status, said, node in self._begun):
            return NodeError(node, why)
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return NodeError(node, f"the agent failed (status {status}): {last}")


def why_not_begun(status: int, said: str, begun: bool = False) -> str:
    """Return why our program did not run on a node, as a sentence for the user.

    Args:
        status: the exit status of oarsh.
        said: the output of oarsh and the login shell.
        begun: whether our program has begun.

    Returns:
        The reason; empty if the program began and failed by itself.
    """
    last = (said.strip().splitlines() or [""])[-1]
    if GONE.search(said):
        return (
            "OAR has nothing of this job there any more: the job is ending, or the node was "
            "restarted, and its containers are gone"
        )
    if status == LOST and not last:
        return (
            "the connection was closed without a message: the job is ending, or the node is down"
        )
    if status == LOST:
        return f"it cannot be reached: {last}"
    if begun:
        return ""
    if status == 127 or NOT_INSTALLED.search(said):
        return "oar-lxc is not installed there: ask the administrator to install it"
    if OARSH_SAYS.search(said):
        return f"oarsh failed (status {status}): {last}"
    told = f", and wrote {last!r}" if last else ""
    return (
        f"your login shell ended there (status {status}) before oar-lxc could begin{told}: look "
        "at what ~/.bashrc, or your shell's file like it, does where there is no terminal"
    )


def stuck_shell() -> str:
    """Return the error of a node whose login shell does not start our program in time."""
    return (
        f"your login shell there did not start oar-lxc within {SHELL_SECONDS} s: look at whether "
        "~/.bashrc, or your shell's file like it, waits for input or starts another shell"
    )


def raise_first(errors: Sequence[OarLxcError]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        raise error
