"""Run other programs: the only module that does, with argv lists, timeouts and own sessions."""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.errors import CommandError, CommandTimeoutError
from oar_lxc.linux.logger import get_logger

_log = get_logger()

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # where the system's own programs are
KILL_WAIT = 2.0  # seconds; a user cannot kill a program that runs set-user-id root
PIPE_SIZE = 1 << 20  # bytes; the kernel's limit for a user
NONE = -1  # no file descriptor


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        argv: the program and its arguments.
        status: exit status; negative is the number of the signal that ended it.
        stdout: its standard output, decoded as UTF-8 (undecodable bytes kept as surrogates).
        stderr: likewise.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class _Process(subprocess.Popen[bytes]):
    """A process whose end is noticed at once.

    Python looks for it again and again, with up to 50 ms between. That is most of the time that
    short programs take.
    """

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most ``timeout`` seconds.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        if timeout is not None and self.returncode is None:
            with suppress(OSError):  # it is gone, or no file can be opened: Python's way remains
                pidfd = os.pidfd_open(self.pid)
                try:
                    end = select.poll()
                    end.register(pidfd, select.POLLIN)
                    if not end.poll(max(0.0, timeout) * 1000):
                        raise subprocess.TimeoutExpired(self.args, timeout)
                finally:
                    os.close(pidfd)
        return super().wait(timeout)


def run(  # noqa: PLR0913  # the arguments are those of subprocess.run()
    argv: Sequence[str],
    *,
    input: str | bytes | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    check: bool = True,
    first: Callable[[], object] | None = None,
) -> Result:
    """Run a program and wait for it.

    The program gets a session of its own, so that a timeout kills it with all it started.

    Args:
        argv: program and arguments; never a shell line.
        input: its standard input; empty if None.
        timeout: seconds after which its whole process group is killed.
        env: its environment; the caller's if None.
        cwd: its working directory.
        check: raise an error if the status is not 0.
        first: called in its process before the program starts; may only make system calls.

    Raises:
        CommandError: the status is not 0, or the program cannot be executed (status 127).
        CommandTimeoutError: it did not end in time.
    """
    _log.debug("running a program", command=" ".join(argv))
    if isinstance(input, str):
        input = input.encode("utf-8", "surrogateescape")
    try:
        process = _Process(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=first,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_started(argv, error) from error
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


def _not_started(argv: Sequence[str], error: Exception) -> CommandError:
    why = error.strerror if isinstance(error, OSError) else "what it needs first has failed"
    return CommandError(argv, 127, f"{argv[0]}: {why}")


def kill_group(group: int) -> None:
    """Kill a process group with SIGKILL; it may be gone or of another user."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_children() -> None:
    """Kill all programs that this process runs, in whatever thread, with all that they started."""
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # the thread has ended
            for child in Path(f"/proc/self/task/{task}/children").read_text().split():
                kill_group(int(child))


class Program:
    """A program that runs beside the caller, with pipes to it.

    Args:
        argv: program and arguments; never a shell line.
        stdin: the descriptor that it reads; a pipe if None.
        stdout: the descriptor that it writes to; a pipe if None.
        env: its environment; the caller's if None.
        first: see :func:`running`.
        one_of_many: it shares the caller's process group, and its pipes have the usual size.

    Attributes:
        pid: its process id.
        stdin: the pipe that it reads; :data:`NONE` if ``stdin`` was given.
        stdout: the pipe that it writes to; :data:`NONE` if ``stdout`` was given.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
        first: Callable[[], object] | None = None,
        one_of_many: bool = False,
    ) -> None:
        self.argv = tuple(argv)
        _log.debug("running a program", command=" ".join(argv))
        # A file, not a pipe: a pipe that is not read while the program runs would fill up.
        self._stderr = os.fdopen(os.memfd_create("stderr"), "w+b")
        try:
            self._process = _Process(
                argv,
                stdin=subprocess.PIPE if stdin is None else stdin,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=self._stderr,
                env=env,
                start_new_session=not one_of_many,
                bufsize=0,
                preexec_fn=first,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._stderr.close()
            raise _not_started(argv, error) from error
        self.pid = self._process.pid
        self.stdin = self._process.stdin.fileno() if self._process.stdin else NONE
        self.stdout = self._process.stdout.fileno() if self._process.stdout else NONE
        for fd in (self.stdin, self.stdout):
            if fd != NONE and not one_of_many:
                with suppress(OSError):  # the user has many pipes already
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def feed(self, data: bytes) -> None:
        """Write the last data to its standard input, unless it has ended, and close the pipe."""
        if self._process.stdin:
            self.send(data)
            self._process.stdin.close()

    def send(self, data: bytes) -> None:
        """Write data to its standard input, unless it has ended."""
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.stdin, data) :]

    def wait(self) -> int:
        """Wait for its end; return its exit status, or the negative signal that ended it."""
        return self._process.wait()

    def finish(self, timeout: float = 600) -> None:
        """Close its standard input and wait for its end.

        Raises:
            CommandError: its status is not 0.
            CommandTimeoutError: it did not end in time.
        """
        if self._process.stdin:
            self._process.stdin.close()
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeoutError(self.argv, timeout) from None
        if status != 0:
            raise CommandError(self.argv, status, self.said())

    def said(self) -> str:
        """Return what it wrote to its standard error so far; it may still run."""
        # pread, not seek: the program writes at the same file position.
        fd = self._stderr.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Kill it with all that it started, if it still runs, and close its pipes."""
        if self._process.poll() is None:
            kill_group(self._process.pid)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_WAIT)
        self.leave()

    def leave(self) -> None:
        """Close its pipes, and do not kill it."""
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe:
                with suppress(OSError):
                    pipe.close()


def read_lines(readers: Mapping[int, Callable[[bytes], object]]) -> None:
    """Read lines from several pipes at once until all have ended.

    Args:
        readers: for each pipe, the function that is called with each line, without its newline.
    """
    rests = dict.fromkeys(readers, b"")
    with selectors.DefaultSelector() as selector:
        for fd in readers:
            selector.register(fd, selectors.EVENT_READ)
        while rests:
            for key, _ in selector.select():
                data = os.read(key.fd, PIPE_SIZE)
                *lines, rests[key.fd] = (rests[key.fd] + data).split(b"\n")
                for line in lines:
                    readers[key.fd](line)
                if not data:
                    selector.unregister(key.fd)
                    if rest := rests.pop(key.fd):
                        readers[key.fd](rest)


@contextmanager
def running(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    env: Mapping[str, str] | None = None,
    first: Callable[[], object] | None = None,
) -> Iterator[Program]:
    """Run a program beside the block, which writes to it or reads from it.

    The block calls :meth:`Program.finish`. A program that still runs at the end of the block is
    killed.

    Args:
        argv: program and arguments; never a shell line.
        stdin: the descriptor that it reads; a pipe if None.
        stdout: the descriptor that it writes to; a pipe if None.
        env: its environment; the caller's if None.
        first: called in its process before the program starts. If it does not return, a fork of
            this process runs instead of the program, without ``env``;
            :func:`oar_lxc.linux.fork.become` takes an environment.

    Raises:
        CommandError: the program cannot be executed (status 127).
    """
    program = Program(argv, stdin=stdin, stdout=stdout, env=env, first=first)
    try:
        yield program
    finally:
        program.close()
