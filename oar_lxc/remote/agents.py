"""Run the agent on nodes of a job, all at once, and hand on what it says.

:mod:`oar_lxc.remote.fanout` gets to a node through oarsh, as the job's user and inside the job's
cpuset there.
On the node that this process runs on, the agent is a plain child.
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
from oar_lxc.linux.ending import debugging
from oar_lxc.linux.fork import become, may_fork
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.run import Program, read_lines, running
from oar_lxc.linux.verbose import doing
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.wire import (
    EVENTS,
    UP,
    Done,
    Error,
    Event,
    Failed,
    NoMessageError,
    Request,
    decode,
    encode,
)

OnEvent = Callable[[str, Event], None]
AnyEvent = TypeVar("AnyEvent", bound=Event)


LOST = 255  # the exit status of ssh where the way is lost
CONNECT_SECONDS = 10  # for ssh to get to a node
SHELL_SECONDS = 60  # for a login shell to get to our program
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
# Nodes that are reached from one node. oarsh takes about 0.08 s of processor time for each, and a
# branch, which one more node leads to, twice the time that ssh takes to log in.
WIDTH = 64


@dataclass(frozen=True)
class Coming:
    """A request that is made while this node's agent comes up.

    Attributes:
        cls: what it will be.
        make: returns it.
    """

    cls: type[Request]
    make: Callable[[], Request]


class Remote:
    """The way to the agents of a job's nodes.

    Args:
        job_id: OAR's job id.
        nodes: names of the job's nodes.
        local: the one that this process runs on, empty on a frontend.
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
        request: Request | Coming,
        on_event: OnEvent,
        nodes: Sequence[str] | None = None,
    ) -> list[NodeError]:
        """Have the agents of nodes do something, all at once, and wait for all.

        Args:
            request: what they are asked.
            on_event: is given the node's name and each event as it comes.
            nodes: which nodes; all of the job by default.

        Returns:
            The nodes on which it failed as a whole, and why.
        """
        wanted = self.nodes if nodes is None else tuple(nodes)
        operation = request.cls.kind if isinstance(request, Coming) else request.kind
        argv = isolated("oar_lxc.agent.main", [str(self.job_id), operation], self._python)
        doing("asking nodes", operation=operation, job=self.job_id, nodes=" ".join(wanted))
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
            asked = request.make() if isinstance(request, Coming) else request
            if agent:
                agent.feed(encode(asked) + b"\n")
            if fanout:
                far_asked = encode(replace(asked, heartbeat=True))
                fanout.feed(self._order(far, argv) + far_asked + b"\n")
            read_lines(readers)
            if agent:
                answers.end(self.local, agent.wait(), agent.said())
            if fanout and fanout.wait() != 0:
                raise OarLxcError(f"the way to {', '.join(far)} failed: {fanout.said()}")
        return [error for node in wanted if (error := answers.failure(node))]

    def collect(
        self, request: Request, kind: type[AnyEvent], nodes: Sequence[str] | None = None
    ) -> list[tuple[str, AnyEvent]]:
        """Return all events of one kind by which agents answer, each with its node.

        Args:
            request: what they are asked.
            kind: the events' class.
            nodes: which nodes; all of the job by default.

        Raises:
            ContainerError: what was asked of a container failed.
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
        """Return what :class:`oar_lxc.remote.fanout.Order` tells, as a line."""
        order = {"job": self.job_id, "nodes": nodes, "here": "", "argv": argv}
        return json.dumps({**order, "python": self._python, "width": WIDTH}).encode() + b"\n"


def _running(argv: Sequence[str], environ: Mapping[str, str]) -> AbstractContextManager[Program]:
    """Run a module's program beside the block; in a fork of this process, where it may.

    Args:
        argv: of :func:`oar_lxc.linux.isolated.isolated`.
        environ: its environment.
    """
    python, _, _, module, *_ = argv

    def main() -> None:
        import_module(module).main()

    fork = python == sys.executable and may_fork()
    instead = partial(become, main, argv[3:], environ) if fork else None
    return running(argv, env=environ, instead=instead)


def oarsh_environ(job_id: int) -> dict[str, str]:
    """Return the variables by which oarsh gets to the nodes of a job.

    Inside a cpuset, oarsh knows the job by itself; on a frontend by its id. With the cpuset off it
    wants OAR's key of the job, of which prepare gave the user a copy.
    """
    environ = {"OAR_JOB_ID": str(job_id)}
    key = JobLayout(job_id).job_key
    if "OAR_JOB_KEY_FILE" not in os.environ and os.access(key, os.R_OK):
        environ["OAR_JOB_KEY_FILE"] = str(key)
    return environ


class _Answers:
    """Turns lines of agents into events, and ends into failures."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._reason: dict[str, str] = {}
        self._done: set[str] = set()
        self._begun: set[str] = set()
        self._stderr: dict[str, list[str]] = {}
        self._status: dict[str, int] = {}

    def take(self, node: str, line: bytes) -> None:
        """Take one line that a node wrote to its standard output."""
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
            return  # it is still there
        node, what, *content = json.loads(line)
        if what == "up":
            self._begun.add(node)
        elif what == "line":
            self.take(node, content[0].encode("utf-8", "surrogateescape"))
        elif what == "end":
            self.end(node, *content)

    def end(self, node: str, status: int, said: str = "") -> None:
        """Take the exit status of a node's agent, and what it wrote to its standard error."""
        self._status[node] = status
        if said and debugging():
            sys.stderr.write(f"node {node} said:\n{said.rstrip()}\n")
        self._stderr.setdefault(node, []).extend(said.splitlines())

    def failure(self, node: str) -> NodeError | None:
        """Return why a node failed, None where it did not."""
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
    """Return why a program of ours did not do its work on a node, as a sentence for the user.

    Args:
        status: the exit status of oarsh.
        said: what it and the login shell wrote.
        begun: whether the program said that it had begun.

    Returns:
        The reason, empty where it is the program's own to tell.
    """
    last = (said.strip().splitlines() or [""])[-1]
    if "oarsh: Cannot find cpuset file" in said:
        return (
            "OAR has nothing of this job there any more: the job is ending, or the node was "
            "restarted, and its containers are gone"
        )
    if status == LOST and not last:
        return "the way there was closed without a word: the job is ending, or the node is down"
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
    """Return what is told of a node where our program does not begin."""
    return (
        f"your login shell there did not start oar-lxc within {SHELL_SECONDS} s: look at whether "
        "~/.bashrc, or your shell's file like it, waits for input or starts another shell"
    )


def raise_first(errors: Sequence[OarLxcError]) -> None:
    """Raise the first of some errors, where there is one."""
    for error in errors:
        raise error
