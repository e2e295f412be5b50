"""Run the attach program (:mod:`oar_lxc.agent.attach`) on the node of a container."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from oar_lxc.cli.shared.streams import NotBegunError, replace_process, run_here, run_through_oarsh
from oar_lxc.cli.shared.targets import find_running, find_target
from oar_lxc.client import lookup
from oar_lxc.client.lookup import has_container, parse_target
from oar_lxc.client.node_cache import forget, recall
from oar_lxc.errors import ContainerError, NodeError, OarLxcError, UsageError
from oar_lxc.linux.error_exit import debug_words, tell_on_stderr
from oar_lxc.linux.isolated import isolated
from oar_lxc.linux.logger import get_logger
from oar_lxc.linux.login_shell import NO_MARK, pack
from oar_lxc.remote.agents import LOST, OARSH, Remote, oarsh_environ, stuck_shell, why_not_begun

_log = get_logger()

Result = TypeVar("Result")
LONGEST_WORD = 1 << 17  # bytes of one word of a command line: MAX_ARG_STRLEN, linux/binfmts.h


@dataclass(frozen=True)
class AttachCommand:
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
            NotBegunError: the attach program did not begin, and did nothing.
        """
        _log.info("running the attach program", node=self.node, command=shlex.join(self.argv))
        if self.token:
            return run_through_oarsh(self.argv, self.token, node=self.node, terminal=self.terminal)
        if self.terminal:
            replace_process(self.argv)
        return run_here(self.argv)


def attach_command(
    remote: Remote,
    node: str,
    action: str,
    *words: str,
    terminal: bool = False,
    marked: bool = False,
) -> AttachCommand:
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
        return AttachCommand(tuple(argv), node, token if marked else "", terminal)
    argv = oarsh_attach_command(remote, node, action, *words, token=token, terminal=terminal)
    return AttachCommand(tuple(argv), node, token, terminal)


def oarsh_attach_command(
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


def run_attach(target: str, action: str, *words: str, terminal: bool = False) -> int:
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

    def act(remote: Remote, node: str, name: str) -> int:
        status = attach_command(remote, node, action, name, *words, terminal=terminal).run()
        # It may be the command's own status.
        if status == LOST and node != remote.local and (why := lookup.why_over(remote.job_id)):
            tell_on_stderr(why)
        return status

    return on_node_of(target, act, any_state=action == "log")


def on_node_of(
    target: str, act: Callable[[Remote, str, str], Result], *, any_state: bool = False
) -> Result:
    """Call a function with a container's node: the last known node, or else the one looked up.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.
        act: called with the job's ``Remote``, the node and the container's name. It must raise
            NotBegunError if the attach program does not begin, and NodeError or ContainerError
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
        except NotBegunError as error:
            if error.late:
                raise not_begun(error, guess[1]) from None
        except (NodeError, ContainerError):
            pass
        _log.info("the container is not there: looking for it", container=name)
        forget(guess[0].job_id)
    remote, found = find_target(target) if any_state else find_running(target)
    try:
        return act(remote, found.node, name)
    except NotBegunError as error:
        raise not_begun(error, found.node) from None


def not_begun(error: NotBegunError, node: str) -> OarLxcError:
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
        remote = lookup.find_remote(job_id)
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
