"""The one door to other programs: argv lists, a timeout, a session of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from oar_lxc.errors import CommandError, CommandTimeoutError

KILL_WAIT = 2.0  # seconds; a program that runs as root on behalf of another cannot be killed


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        argv: the program and its arguments.
        status: exit status; negative is the number of the signal that ended it.
        stdout: what it wrote there, decoded as UTF-8 (undecodable bytes kept as surrogates).
        stderr: likewise.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    input: str | bytes | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    check: bool = True,
) -> Result:
    """Run a program and wait for it.

    The program gets a session of its own, so that a timeout kills it with all it started.

    Args:
        argv: program and arguments; never a shell line.
        input: what it reads from its standard input; without it, nothing.
        timeout: seconds after which its whole process group is killed.
        env: its environment, the caller's where None.
        cwd: its working directory.
        check: raise where the status is not 0.

    Raises:
        CommandError: the status is not 0, or the program cannot be executed (status 127).
        CommandTimeoutError: it did not end in time.
    """
    if isinstance(input, str):
        input = input.encode("utf-8", "surrogateescape")
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(argv, 127, f"{argv[0]}: {error.strerror}") from error
    try:
        out, err = process.communicate(input, timeout=timeout)
    except BaseException as error:
        kill_group(process.pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_WAIT)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandTimeoutError(argv, timeout) from None
        raise
    result = Result(
        tuple(argv),
        process.returncode,
        out.decode("utf-8", "surrogateescape"),
        err.decode("utf-8", "surrogateescape"),
    )
    if check and result.status != 0:
        raise CommandError(argv, result.status, result.stderr or result.stdout)
    return result


def kill_group(group: int) -> None:
    """Kill a process group with SIGKILL, as far as it exists and we may."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
