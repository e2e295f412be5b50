"""What the commands that act on containers share: names, the way to them, running programs."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from oar_lxc.container import RUNNING, not_running
from oar_lxc.errors import ContainerError, OarLxcError, UsageError
from oar_lxc.layout import check_job_id
from oar_lxc.lookup import (
    FoundContainer,
    find_container,
    find_remote,
    list_containers,
    parse_target,
)
from oar_lxc.remote import Remote, oarsh_environ
from oar_lxc.run import run

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
COMPLETION_TIMEOUT = 5.0  # seconds; somebody waits at a prompt


def complete_container(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return what a begun ``JOB/CONTAINER`` may become: jobs, then the containers of one."""
    with suppress(OarLxcError, OSError):
        job, slash, _ = begun.rpartition("/")
        inside = bool(os.environ.get("OAR_JOB_ID"))
        if not slash and not inside:
            return [CompletionItem(f"{job_id}/") for job_id in _jobs() if job_id.startswith(begun)]
        remote = find_remote(check_job_id(job) if slash else None)
        names = (f"{job}{slash}{container.name}" for container in list_containers(remote))
        return [CompletionItem(name) for name in names if name.startswith(begun)]
    return []


def complete_job(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the caller's jobs whose number begins so."""
    with suppress(OarLxcError, OSError):
        return [CompletionItem(job_id) for job_id in _jobs() if job_id.startswith(begun)]
    return []


def _jobs() -> list[str]:
    """Return the numbers of the caller's jobs, as OAR lists them."""
    text = run(["oarstat", "-u"], timeout=COMPLETION_TIMEOUT).stdout
    return [
        words[0]
        for line in text.splitlines()
        if (words := line.split())[:1] and words[0].isdigit()
    ]


def remote_of(job_id: int | None) -> Remote:
    """Return the way to the nodes of a job; see :func:`oar_lxc.lookup.find_remote`."""
    return find_remote(job_id)


def find_running(target: str) -> tuple[Remote, FoundContainer]:
    """Return a container that runs, and the way to it.

    Args:
        target: ``JOB/CONTAINER``, or ``CONTAINER`` inside a job.

    Raises:
        UsageError: it is neither, or the job is not a running one of the caller's.
        ContainerError: there is none, or it does not run; the message says what to do.
    """
    job_id, name = parse_target(target)
    remote = find_remote(job_id)
    found = find_container(remote, name)
    if found.state != RUNNING:
        raise ContainerError(name, found.node, not_running(found.state))
    return remote, found


def find_several(targets: Sequence[str]) -> tuple[Remote, list[FoundContainer]]:
    """Return containers of one job, in the order of the job.

    Args:
        targets: ``JOB/CONTAINER`` or ``CONTAINER`` each; ``JOB/`` for all of a job.

    Raises:
        UsageError: one is none of these, or they are of several jobs.
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


def doorway(
    remote: Remote, node: str, action: str, *arguments: str, terminal: bool = False
) -> list[str]:
    """Return the command that opens a container's door on its node; see oar_lxc.doorway."""
    if node == remote.local:
        return [*_doorway(remote, action), *arguments]
    return far_doorway(remote, node, action, *arguments, terminal=terminal)


def far_doorway(
    remote: Remote, node: str, action: str, *arguments: str, terminal: bool = False
) -> list[str]:
    """Return the same for whoever is not on the node, or may not be."""
    option = ["-t"] if terminal else []
    variables = [f"{key}={value}" for key, value in oarsh_environ(remote.job_id).items()]
    line = shlex.join([*_doorway(remote, action), *arguments])
    return ["env", *variables, "oarsh", *option, node, line]


def _doorway(remote: Remote, action: str) -> list[str]:
    return [sys.executable, "-m", "oar_lxc.doorway", str(remote.job_id), action]


def on_terminal() -> bool:
    """Whether there is somebody at both ends: what is typed is read, what is written is seen."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def become(argv: Sequence[str]) -> NoReturn:
    """Let a program have this process, its terminal and all signals."""
    os.execvp(argv[0], list(argv))  # noqa: S606


def pass_through(remote: Remote, found: FoundContainer, argv: Sequence[str]) -> int:
    """Run a door's command with our streams; return its exit status, 128 + signal."""
    if found.node == remote.local:
        with subprocess.Popen(list(argv)) as process, forwarded(process):
            return _status(process.wait())
    return _leashed(argv)


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


@contextmanager
def forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals on to a child; those of the terminal reach it without us."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    handlers: dict[int, Handler] = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), forward)
    handlers |= dict.fromkeys((signal.SIGINT, signal.SIGQUIT), signal.SIG_IGN)
    before = _handle(handlers)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handlers: Mapping[int, Handler]) -> dict[int, Handler]:
    """Set handlers, but none for what is ignored already; return those before."""
    before: dict[int, Handler] = {}
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def _leashed(argv: Sequence[str]) -> int:
    """Run oarsh so that it ends when we do, however that happens.

    It runs as OAR's user, whom we may not send signals to. But the kernel does, to whoever has a
    terminal that is gone: so it gets one of its own, which ends with us. Its streams are ours.
    """
    master, slave = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup is for us: it goes on while we do
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(list(argv), start_new_session=True, preexec_fn=take_terminal)
    os.close(slave)
    before = _handle({signal.SIGTERM: _leave, signal.SIGHUP: _leave})
    try:
        child = os.pidfd_open(process.pid)
        poll = select.poll()
        poll.register(child, select.POLLIN)
        poll.register(master, select.POLLIN)
        while True:
            happened = dict(poll.poll())
            if child in happened:
                return _status(process.wait())
            try:
                said = os.read(master, 4096)
            except OSError:  # its end closed the terminal: nothing can be asked there
                poll.unregister(master)
                continue
            # ssh asks there what nobody is there to answer.
            sys.stderr.buffer.write(said)
            sys.stderr.flush()
            os.close(master)
            master = -1
            return _status(process.wait())
    finally:
        if master >= 0:
            os.close(master)
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
