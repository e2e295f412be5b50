"""Run the attach program on a node, and pass our streams to it and from it.

On another node, the login shell may write text before the program begins. That text is not the
program's output: everything up to the program's mark is dropped, and no input is sent before the
mark.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from oar_lxc.errors import OarLxcError, OutputError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.login_shell import mark_of
from oar_lxc.linux.signals import shell_status
from oar_lxc.remote.agents import LOST, SHELL_SECONDS

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
CHUNK = 1 << 16
MOST_NOISE = 1 << 20  # bytes of a login shell's output that are kept
CLOSE_SECONDS = 2.0  # for oarsh to end after its streams are closed; we cannot kill it


class NotBegunError(OarLxcError):
    """The attach program did not begin: it did nothing, and no input for it is lost.

    Args:
        status: the exit status of the command that was to start it.
        said: the output of that command.
        late: whether we gave up because no mark came in time.
    """

    def __init__(self, status: int, said: str, late: bool = False) -> None:
        self.status, self.said, self.late = status, said, late
        super().__init__(f"the attach program did not begin (status {status}): {said}")


def replace_process(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program; the program gets our terminal and all signals."""
    os.execvp(argv[0], list(argv))  # noqa: S606


def run_here(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run a program with our own streams; return its exit status, or 128 + signal."""
    with subprocess.Popen(list(argv), env=environ) as process, forwarded(process):
        return shell_status(process.wait())


@dataclass
class AttachStreams:
    """The streams of a running attach program, as paths that another program can open.

    Attributes:
        out: the path of its standard output.
        into: the path of its standard input.
    """

    out: str
    into: str
    _fd: int

    def line(self) -> bytes:
        """Read one line of its output, and nothing after that."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._fd, 1)):
            line += byte
        return line


@contextmanager
def running_attach(argv: Sequence[str], token: str) -> Iterator[AttachStreams]:
    """Run the attach program during the block.

    Args:
        argv: the command that starts it.
        token: the token of the mark that it writes first; empty: it writes none.

    Raises:
        NotBegunError: no mark came.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if token else None,
        bufsize=0,
        start_new_session=True,
    )
    streams = [pipe.fileno() if pipe else -1 for pipe in (process.stdout, process.stdin)]
    try:
        if token:
            _await_mark(process, token, streams[0])
        out, into = (f"/proc/{os.getpid()}/fd/{fd}" for fd in streams)
        yield AttachStreams(out, into, streams[0])
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_SECONDS)


def _await_mark(process: subprocess.Popen[bytes], token: str, out: int) -> None:
    """Read output up to the mark and no further; pass on standard error after its mark."""
    end = Deadline.after(SHELL_SECONDS)
    heard = Marked(out, token, end, size=1)
    said = Marked(_fd(process.stderr), token, end)
    thread = threading.Thread(target=_copy, args=(said, 2), daemon=True)
    thread.start()
    if heard.skip() is None:
        if process.stdin:
            process.stdin.close()
        status = None if heard.late else process.wait()
        thread.join(1)
        raise _not_begun(status, heard, said)


class Marked:
    """A stream whose data begins after a mark.

    Args:
        fd: the file to read.
        token: the token of the mark.
        end: when to give up.
        size: how many bytes to read at a time before the mark.

    Attributes:
        fd: the file to read.
        noise: the last :data:`MOST_NOISE` bytes before the mark.
        late: whether no mark came in time.
    """

    def __init__(self, fd: int, token: str, end: Deadline, size: int = CHUNK) -> None:
        self.fd = fd
        self.noise = bytearray()
        self.late = False
        self._mark = mark_of(token).strip(b"\n")
        self._end, self._size = end, size

    def skip(self) -> bytes | None:
        """Read up to the mark; return the bytes read after it, or None if no mark comes."""
        part = bytearray()  # an unfinished line
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while poll.poll(self._end.left() * 1000):
            data = _read(self.fd, self._size)
            part += data
            while b"\n" in data and b"\n" in part:
                line, _, part = part.partition(b"\n")
                if line.rstrip(b"\r") == self._mark:  # a terminal ends lines with \r\n
                    return bytes(part)
                self.noise += line + b"\n"
            if not data:
                self.noise += part
                return None
            if len(part) > MOST_NOISE:
                del part[:-CHUNK]
            del self.noise[:-MOST_NOISE]
        self.late = True
        return None

    def text(self) -> str:
        """Return the text before the mark."""
        return bytes(self.noise).decode("utf-8", "replace").replace("\r", "").strip("\n")


def _copy(source: Marked, target: int) -> None:
    """Pass on the data after the mark."""
    with suppress(OSError):  # our reader is gone: stop; the program notices when it writes
        rest = source.skip()
        while rest is not None:
            while rest:
                rest = rest[os.write(target, rest) :]
            rest = _read(source.fd) or None


def _not_begun(status: int | None, *streams: Marked) -> NotBegunError:
    said = "\n".join(stream.text() for stream in streams)
    return NotBegunError(LOST if status is None else shell_status(status), said, status is None)


def in_memory(name: str, text: str) -> str:
    """Make a file in memory that only the user can read; return its path.

    The file is gone when this process ends.
    """
    fd = os.memfd_create(name)
    os.fchmod(fd, 0o600)
    with os.fdopen(os.dup(fd), "w") as file:
        file.write(text)
    return f"/proc/{os.getpid()}/fd/{fd}"


def run_through_oarsh(
    argv: Sequence[str], token: str, *, node: str = "", terminal: bool = False
) -> int:
    """Run oarsh so that it ends when this process ends, for any reason; return its exit status.

    oarsh runs as user oar, so we may not send signals to it. But the kernel sends SIGHUP to a
    process whose terminal is gone. So oarsh gets a terminal of its own, which ends with us.

    Args:
        argv: the command.
        token: the token of the mark that the program on the node writes first.
        node: the node as the command names it.
        terminal: whether that terminal is also the program's; if not, it gets three pipes.

    Raises:
        NotBegunError: no mark came.
        OutputError: our standard output could not be written.
    """
    master, slave = pty.openpty()
    pipe = slave if terminal else subprocess.PIPE
    if terminal:
        termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(0))
        copy_size(0, slave)

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, only we ignore SIGHUP
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        list(argv),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        bufsize=0,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    before = _handle({signal.SIGTERM: _leave, signal.SIGHUP: _leave})
    try:
        if terminal:
            return _Streams(process, token, master, master, node=node).run_on_terminal()
        out, into, err = map(_fd, (process.stdout, process.stdin, process.stderr))
        return _Streams(process, token, out, into, err).run(master)
    finally:
        os.close(master)
        for number, handler in before.items():
            signal.signal(number, handler)


def _fd(pipe: Any) -> int:
    """Return a copy of a pipe's descriptor, and close the pipe."""
    fd = os.dup(pipe.fileno())
    pipe.close()
    return fd


class _Streams:
    """Passes data between our streams and those of a program on another node.

    Args:
        process: oarsh, which runs the program.
        token: the token of the mark.
        out: the file with its output.
        into: the file for its input.
        err: the file with its standard error; None if that is part of the output.
        node: the node, whose name is in ssh's farewell on a terminal.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        token: str,
        out: int,
        into: int,
        err: int | None = None,
        node: str = "",
    ) -> None:
        end = Deadline.after(SHELL_SECONDS)
        self._process = process
        self._out = Marked(out, token, end)
        self._err = None if err is None else Marked(err, token, end)
        self._into = into
        self._lost: OSError | None = None
        # ssh says so at the end on a terminal; a log level that silences it hides errors, too.
        said = rb"Connection to %b closed\.\r*\n\Z" % re.escape(node.encode())
        self._farewell = re.compile(said) if node else None

    def run(self, master: int) -> int:
        """Pass all data through pipes; return the exit status.

        Args:
            master: our end of oarsh's own terminal.

        Raises:
            NotBegunError: no mark came.
            OutputError: our standard output could not be written.
        """
        errors = [_start(_copy, one, 2) for one in (self._err,) if one]
        rest = self._begin()
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background, a read just fails
        reader = _start(self._read, rest)
        _start(self._write)
        status = _wait(self._process, master)
        for thread in (reader, *errors):
            thread.join()
        if self._lost:
            raise OutputError(self._lost)
        return shell_status(status)

    def run_on_terminal(self) -> int:
        """Pass all data between our terminal and the program's; return the exit status.

        Raises:
            NotBegunError: no mark came.
        """
        rest = self._begin()
        before = termios.tcgetattr(0)
        resized = signal.signal(signal.SIGWINCH, lambda *_: copy_size(0, self._into))
        try:
            _make_raw(before)
            copy_size(0, self._into)
            reader = _start(self._read, rest)
            _start(self._write)
            status = self._process.wait()
            reader.join(1)
            return shell_status(status)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            signal.signal(signal.SIGWINCH, resized)

    def _begin(self) -> bytes:
        """Wait for the mark; return the bytes read after it.

        Raises:
            NotBegunError: no mark came.
        """
        rest = self._out.skip()
        if rest is None:
            status = None if self._out.late else self._process.wait()
            time.sleep(0.05)  # its last words may not have arrived yet
            raise _not_begun(status, *filter(None, (self._out, self._err)))
        return rest

    def _read(self, rest: bytes) -> None:
        """Pass on the program's output; if it cannot be written, the program gets a write error.

        The user is told why, unless our reader is gone, who no longer wants to know.
        """
        try:
            while True:
                farewell = self._farewell.search(rest) if self._farewell else None
                held = farewell[0] if farewell else b""  # dropped if it is the end
                rest = rest[: len(rest) - len(held)]
                while rest:
                    rest = rest[os.write(1, rest) :]
                rest = _read(self._out.fd)
                if not rest:
                    return
                rest = held + rest
        except BrokenPipeError:
            pass
        except OSError as error:
            self._lost = error
        if self._out.fd != self._into:
            os.close(self._out.fd)

    def _write(self) -> None:
        """Pass on our standard input, until its end."""
        with suppress(OSError):  # the program reads no more, or we are in the background
            while data := os.read(0, CHUNK):
                while data:
                    data = data[os.write(self._into, data) :]
        if self._out.fd != self._into:
            os.close(self._into)


def _start(act: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=act, args=arguments, daemon=True)
    thread.start()
    return thread


def _read(source: int, size: int = CHUNK) -> bytes:
    try:
        return os.read(source, size)
    except OSError:  # all processes of the terminal are gone
        return b""


def _wait(process: subprocess.Popen[bytes], master: int) -> int:
    """Wait for oarsh; give up if it asks a question on its terminal, where no user answers."""
    child = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.register(master, select.POLLIN)
    while child not in dict(poll.poll()):
        try:
            said = os.read(master, 4096)
        except OSError:  # oarsh has closed its terminal, and can ask nothing there
            poll.unregister(master)
            continue
        with suppress(OSError):
            os.write(2, said)
        raise SystemExit(LOST)
    os.close(child)
    return process.wait()


def _make_raw(attributes: list[Any]) -> None:
    """Make our terminal raw: keys and output pass unchanged; keys typed before are kept."""
    raw = [*attributes[:6], list(attributes[6])]
    raw[0] &= ~(
        termios.BRKINT
        | termios.ICRNL
        | termios.INPCK
        | termios.ISTRIP
        | termios.IXON
        | termios.INLCR
        | termios.IGNCR
    )
    raw[1] &= ~termios.OPOST
    raw[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, raw)


def copy_size(source: int, target: int) -> None:
    """Set the size of a terminal to that of another."""
    with suppress(OSError):
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)


@contextmanager
def forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass signals on to a child during the block; the terminal's signals reach it anyway."""

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
    """Set handlers of signals that are not ignored; return the handlers before."""
    before: dict[int, Handler] = {}
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(shell_status(-number))
