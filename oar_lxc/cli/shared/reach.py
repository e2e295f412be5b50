"""Find a command's containers by name, and run the attach program for them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from oar_lxc.cli.shared.passing import NotOpenedError, become, run_far, run_here
from oar_lxc.client.lookup import (
    find_container,
    find_remote,
    has_container,
    list_containers,
    parse_target,
)
from oar_lxc.client.whereabouts import forget, recall
from oar_lxc.container.runtime import RUNNING, not_running
from oar_lxc.errors import ContainerError, NodeError, OarLxcError, UsageError
from oar_lxc.linux.error_exit import debug_words
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.login_shell import NO_MARK, pack
from oar_lxc.linux.verbose import doing
from oar_lxc.model.layout import check_job_id
from oar_lxc.model.wire import Container
from oar_lxc.oar.commands import running_jobs
from oar_lxc.remote.agents import OARSH, Remote, oarsh_environ, stuck_shell, why_not_begun

Result = TypeVar("Result")
LONGEST_WORD = 1 << 17  # bytes of one word of a command line: MAX_ARG_STRLEN, linux/binfmts.h
COMPLETION_TIMEOUT = 5.0  # seconds; the user waits at a prompt


def complete_container(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Complete ``JOB/CONTAINER``: first the job, then the container."""
    with suppress(OarLxcError, OSError):
        job, slash, _ = begun.rpartition("/")
        inside = bool(os.environ.get("OAR_JOB_ID"))
        if not slash and not inside:
            return [
                CompletionItem(f"{job_id}/")
                for job_id in running_jobs(COMPLETION_TIMEOUT)
                if job_id.startswith(begun)
            ]
        remote = find_remote(check_job_id(job) if slash else None)
        names = (f"{job}{slash}{container.name}" for container in list_containers(remote))
        return [CompletionItem(name) for name in names if name.startswith(begun)]
    return []


def complete_job(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Complete the number of a running job of the caller's."""
    with suppress(OarLxcError, OSError):
        return [
            CompletionItem(job_id)
            for job_id in running_jobs(COMPLETION_TIMEOUT)
            if job_id.startswith(begun)
        ]
    return []


def remote_of(job_id: int | None) -> Remote:
    """Return a job's ``Remote``; see :func:`oar_lxc.client.lookup.find_remote`."""
    return find_remote(job_id)


def find_running(target: str) -> tuple[Remote, Container]:
    """Return a running container, and its job's ``Remote``.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.

    Raises:
        UsageError: the target has neither form.
        JobError: the caller has no such running job.
        ContainerError: there is no such container, or it does not run; the message says what to
            do.
    """
    remote, found = find_target(target)
    if found.state != RUNNING:
        raise ContainerError(found.name, found.node, not_running(found.state))
    return remote, found


def find_target(target: str) -> tuple[Remote, Container]:
    """Return a container in any state, and its job's ``Remote``; see :func:`find_running`."""
    job_id, name = parse_target(target)
    remote = find_remote(job_id)
    return remote, find_container(remote, name)


def find_several(targets: Sequence[str]) -> tuple[Remote, list[Container]]:
    """Return several containers of one job, sorted, and the job's ``Remote``.

    Args:
        targets: ``JOB/CONTAINER`` or ``CONTAINER`` each, or ``JOB/`` for all of a job.

    Raises:
        UsageError: a target has none of these forms, or they are of several jobs.
        ContainerError: the job has no such container.
    """
    wanted: set[str] | None = set()
    jobs = set()
    for target in targets:
        job, slash, name = target.rpartition("/")
        if slash and not name:
            jobs.add(str(check_job_id(job)))
            wanted = None
            continue
        job_id, name = parse_target(target)
        jobs.add("" if job_id is None else str(job_id))
        if wanted is not None:
            wanted.add(name)
    if len(jobs) > 1:
        raise UsageError(f"containers of one job at a time, not of {', '.join(sorted(jobs))}")
    job = jobs.pop()
    remote = find_remote(int(job) if job else None)
    containers = list_containers(remote)
    known = {container.name for container in containers}
    for name in sorted((wanted or set()) - known):
        has = ", ".join(container.name for container in containers) or "none"
        raise ContainerError(name, "", f"job {remote.job_id} has no such container; it has: {has}")
    return remote, [c for c in containers if wanted is None or c.name in wanted]


@dataclass(frozen=True)
class Door:
    """A command that runs the attach program on a node; see :mod:`oar_lxc.agent.attach`.

    Attributes:
        argv: the command.
        node: the node.
        token: the token of the mark that the program writes first; empty: it writes none.
        terminal: whether the program gets a terminal.
    """

    argv: tuple[str, ...]
    node: str
    token: str
    terminal: bool = False

    def run(self) -> int:
        """Run the command with our streams; return its exit status.

        Raises:
            NotOpenedError: the attach program did not begin, and did nothing.
        """
        doing("opening a door", node=self.node, command=shlex.join(self.argv))
        if self.token:
            return run_far(self.argv, self.token, terminal=self.terminal)
        if self.terminal:
            become(self.argv)
        return run_here(self.argv)


def doorway(
    remote: Remote,
    node: str,
    action: str,
    *words: str,
    terminal: bool = False,
    marked: bool = False,
) -> Door:
    """Return the command that runs the attach program for a container.

    Args:
        remote: the job's ``Remote``.
        node: the container's node.
        action: the program's action.
        words: the container, and the action's arguments.
        terminal: whether the program gets a terminal.
        marked: whether the program writes its mark on this node, too. There, no login shell comes
            before it; but a caller may have to know that it has begun.

    Raises:
        UsageError: the words are too long for a command line.
    """
    token = os.urandom(8).hex()
    if node == remote.local:
        arguments = [str(remote.job_id), token if marked else NO_MARK, pack((action, *words))]
        argv = isolated("oar_lxc.agent.attach", arguments)
        return Door(tuple(argv), node, token if marked else "", terminal)
    argv = far_doorway(remote, node, action, *words, token=token, terminal=terminal)
    return Door(tuple(argv), node, token, terminal)


def far_doorway(
    remote: Remote,
    node: str,
    action: str,
    *words: str,
    token: str = NO_MARK,
    terminal: bool = False,
) -> list[str]:
    """Return the command that runs the attach program from any machine, through oarsh."""
    variables = [f"{key}={value}" for key, value in oarsh_environ(remote.job_id).items()]
    arguments = [str(remote.job_id), token, pack((action, *words))]
    # exec: the login shell runs nothing after the program, and so adds nothing to its output.
    line = f"exec {shlex.join([*debug_words(), *isolated('oar_lxc.agent.attach', arguments)])}"
    if len(line) >= LONGEST_WORD:
        raise UsageError(
            f"the command is {sum(map(len, words))} bytes long, and about {LONGEST_WORD * 3 // 4} "
            "is the most: put it into a file, or let it read its standard input"
        )
    terminal_option = ["-t"] if terminal else []
    return ["env", "-u", "DISPLAY", *variables, *OARSH, *terminal_option, node, line]


def through(target: str, action: str, *words: str, terminal: bool = False) -> int:
    """Run the attach program for a container with our streams; return its exit status.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.
        action: the program's action.
        words: the action's arguments.
        terminal: whether the program gets a terminal.

    Raises:
        UsageError: the target has neither form.
        JobError: the caller has no such running job.
        ContainerError: there is no such container, or it does not run; the message says what to
            do.
        NodeError: the container's node cannot be reached.
    """
    return at_door(
        target,
        lambda remote, node, name: doorway(
            remote, node, action, name, *words, terminal=terminal
        ).run(),
        any_state=action == "log",
    )


def at_door(
    target: str, act: Callable[[Remote, str, str], Result], *, any_state: bool = False
) -> Result:
    """Call a function with a container's node: the last known node, or else the one looked up.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.
        act: called with the job's ``Remote``, the node and the container's name. It must raise
            NotOpenedError if the attach program does not begin, and NodeError or ContainerError
            if it fails for another reason.
        any_state: whether the container may be in any state; if not, it must run.

    Raises:
        UsageError: the target has neither form.
        JobError: the caller has no such running job.
        ContainerError: there is no such container, or it does not run; the message says what to
            do.
        NodeError: the container's node cannot be reached.
    """
    job_id, name = parse_target(target)
    if guess := guess_node(job_id, name):
        try:
            return act(*guess, name)
        except NotOpenedError as error:
            if error.late:
                raise not_opened(error, guess[1]) from None
        except (NodeError, ContainerError):
            pass
        doing("the door did not open: looking for the container", container=name)
        forget(guess[0].job_id)
    remote, found = find_target(target) if any_state else find_running(target)
    try:
        return act(remote, found.node, name)
    except NotOpenedError as error:
        raise not_opened(error, found.node) from None


def not_opened(error: NotOpenedError, node: str) -> OarLxcError:
    """Return an error for the user that tells why the attach program did not begin."""
    if error.late:
        return NodeError(node, stuck_shell())
    lines = error.said.strip().splitlines()
    if own := [line for line in lines if line.startswith("oar-lxc: ")]:
        told = OarLxcError(own[-1].removeprefix("oar-lxc: "))
        told.exit_status = error.status
        return told
    return NodeError(node, why_not_begun(error.status, error.said))


def guess_node(job_id: int | None, name: str) -> tuple[Remote, str] | None:
    """Return the job's ``Remote`` and the node where a container was last; None if not known."""
    inside = os.environ.get("OAR_JOB_ID") or os.environ.get("OAR_JOBID") or ""
    if inside and job_id in (None, int(inside) if inside.isdecimal() else 0):
        remote = find_remote(job_id)
        if remote.local and has_container(remote.job_id, name):
            return remote, remote.local
        node = recall(remote.job_id).get(name, "")
        return (remote, node) if node in remote.nodes else None
    if job_id is not None and (node := recall(job_id).get(name, "")):
        return Remote(job_id, [node]), node
    return None


def on_terminal() -> bool:
    """Whether standard input and standard output are both a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
