"""Run a door's program on a node, with our streams passed to it and from it.

On another node, what the login shell there writes before the program begins is no part of its
streams: it is dropped up to a mark, and nothing is sent before that.
"""

from __future__ import annotations

import fcntl
import os
import pty
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

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.login_shell import mark_of
from oar_lxc.linux.signals import shell_status
from oar_lxc.remote.agents import LOST, SHELL_SECONDS

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
CHUNK = 1 << 16
MOST_NOISE = 1 << 20  # bytes of what a login shell writes that are kept
CLOSE_SECONDS = 2.0  # for a door to close; it is oarsh's, and cannot be killed


class NotOpenedError(OarLxcError):
    """A door did not open: nothing was done behind it, and nothing that it was to read is lost.

    Args:
        status: the exit status of what was to open it.
        said: what that wrote.
        late: whether it was given up, as nothing came.
    """

    def __init__(self, status: int, said: str, late: bool = False) -> None:
        self.status, self.said, self.late = status, said, late
        super().__init__(f"the door did not open (status {status}): {said}")


def become(argv: Sequence[str]) -> NoReturn:
    """Let a program have this process, its terminal and all signals."""
    os.execvp(argv[0], list(argv))  # noqa: S606


def run_here(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run a program with our own streams; return its exit status, 128 + signal."""
    with subprocess.Popen(list(argv), env=environ) as process, forwarded(process):
        return shell_status(process.wait())


@dataclass
class Way:
    """An open door, as files that another program of the user's may open.

    Attributes:
        out: the path of what comes.
        into: the path of what goes.
    """

    out: str
    into: str
    _fd: int

    def line(self) -> bytes:
        """Read a line, and nothing after it."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._fd, 1)):
            line += byte
        return line


@contextmanager
def opened(argv: Sequence[str], token: str) -> Iterator[Way]:
    """Have a door open beside the block; its end closes it.

    Args:
        argv: the command.
        token: of the mark that it writes first; empty where it writes none.

    Raises:
        NotOpenedError: no mark came.
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
        yield Way(out, into, streams[0])
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_SECONDS)


def _await_mark(process: subprocess.Popen[bytes], token: str, out: int) -> None:
    """Read up to the mark and no further; from then on, standard error goes to ours."""
    end = time.monotonic() + SHELL_SECONDS
    heard = Marked(out, token, end, size=1)
    said = Marked(_fd(process.stderr), token, end)
    thread = threading.Thread(target=_copy, args=(said, 2), daemon=True)
    thread.start()
    if heard.skip() is None:
        if process.stdin:
            process.stdin.close()
        status = None if heard.late else process.wait()
        thread.join(1)
        raise _not_opened(status, heard, said)


class Marked:
    """A stream that counts from a mark on.

    Args:
        fd: where it comes from.
        token: of the mark.
        end: when it is given up, as :func:`time.monotonic` has it.
        size: how many bytes are read at a time before the mark.

    Attributes:
        fd: likewise.
        noise: what came before the mark, as far as it is kept.
        late: whether it was given up.
    """

    def __init__(self, fd: int, token: str, end: float, size: int = CHUNK) -> None:
        self.fd = fd
        self.noise = bytearray()
        self.late = False
        self._mark = mark_of(token).strip(b"\n")
        self._end, self._size = end, size

    def skip(self) -> bytes | None:
        """Return what was read after the mark; None where there is none."""
        part = bytearray()  # of a line
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while poll.poll(max(0.0, self._end - time.monotonic()) * 1000):
            data = _read(self.fd, self._size)
            part += data
            while b"\n" in data and b"\n" in part:
                line, _, part = part.partition(b"\n")
                if line.rstrip(b"\r") == self._mark:  # a terminal makes it two characters
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
        """Return what came before the mark."""
        return bytes(self.noise).decode("utf-8", "replace").replace("\r", "").strip("\n")


def _copy(source: Marked, target: int) -> None:
    """Pass on what comes after the mark."""
    with suppress(OSError):  # nobody reads what we write: the other end is told when it writes
        rest = source.skip()
        while rest is not None:
            while rest:
                rest = rest[os.write(target, rest) :]
            rest = _read(source.fd) or None


def _not_opened(status: int | None, *streams: Marked) -> NotOpenedError:
    said = "\n".join(stream.text() for stream in streams)
    return NotOpenedError(LOST if status is None else shell_status(status), said, status is None)


def in_memory(name: str, text: str) -> str:
    """Return the path of a file that only the user may read, and that ends with this process."""
    fd = os.memfd_create(name)
    os.fchmod(fd, 0o600)
    with os.fdopen(os.dup(fd), "w") as file:
        file.write(text)
    return f"/proc/{os.getpid()}/fd/{fd}"


def run_far(argv: Sequence[str], token: str, *, terminal: bool = False) -> int:
    """Run oarsh so that it ends when we do, however that happens; return its exit status.

    It runs as OAR's user, whom we may not send signals to. But the kernel does, to whoever has a
    terminal that is gone: so it gets one of its own, which ends with us.

    Args:
        argv: the command.
        token: of the mark that what it runs writes first.
        terminal: whether that terminal stands for ours, or else three pipes for our streams.

    Raises:
        NotOpenedError: no mark came.
    """
    master, slave = pty.openpty()
    pipe = slave if terminal else subprocess.PIPE
    if terminal:
        termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(0))
        copy_size(0, slave)

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup is for us: it goes on while we do
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
            return _Streams(process, token, master, master).run_on_terminal()
        out, into, err = map(_fd, (process.stdout, process.stdin, process.stderr))
        return _Streams(process, token, out, into, err).run(master)
    finally:
        os.close(master)
        for number, handler in before.items():
            signal.signal(number, handler)


def _fd(pipe: Any) -> int:
    """Take over a pipe of a process, which is not closed with it."""
    fd = os.dup(pipe.fileno())
    pipe.close()
    return fd


class _Streams:
    """What is passed between our streams and those of a program on another node.

    Args:
        process: what leads to it.
        token: of the mark.
        out: where its output comes from.
        into: where its input goes.
        err: where its standard error comes from, where that is another.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        token: str,
        out: int,
        into: int,
        err: int | None = None,
    ) -> None:
        end = time.monotonic() + SHELL_SECONDS
        self._process = process
        self._out = Marked(out, token, end)
        self._err = None if err is None else Marked(err, token, end)
        self._into = into

    def run(self, master: int) -> int:
        """Pass all; return the exit status.

        Args:
            master: the other end of the terminal that oarsh has.

        Raises:
            NotOpenedError: no mark came.
        """
        errors = [_start(_copy, one, 2) for one in (self._err,) if one]
        rest = self._begin()
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background there is no input
        reader = _start(self._read, rest)
        _start(self._write)
        status = _wait(self._process, master)
        for thread in (reader, *errors):
            thread.join()
        return shell_status(status)

    def run_on_terminal(self) -> int:
        """Pass all between our terminal and its; return the exit status.

        Raises:
            NotOpenedError: no mark came.
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
        """Return what was read after the mark.

        Raises:
            NotOpenedError: it did not come.
        """
        rest = self._out.skip()
        if rest is None:
            status = None if self._out.late else self._process.wait()
            time.sleep(0.05)  # what it said last is on its way
            raise _not_opened(status, *filter(None, (self._out, self._err)))
        return rest

    def _read(self, rest: bytes) -> None:
        """Pass on its output; where nobody reads that, it is told when it writes."""
        with suppress(OSError):
            while True:
                while rest:
                    rest = rest[os.write(1, rest) :]
                rest = _read(self._out.fd)
                if not rest:
                    return
        if self._out.fd != self._into:
            os.close(self._out.fd)

    def _write(self) -> None:
        """Pass on what we are given, until its end."""
        with suppress(OSError):  # it reads no more, or we are in the background of a terminal
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
    except OSError:  # a terminal that nobody has any more
        return b""


def _wait(process: subprocess.Popen[bytes], master: int) -> int:
    """Wait for oarsh; give up where it asks something on its terminal, as nobody is there."""
    child = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.register(master, select.POLLIN)
    while child not in dict(poll.poll()):
        try:
            said = os.read(master, 4096)
        except OSError:  # its end closed the terminal: nothing can be asked there
            poll.unregister(master)
            continue
        with suppress(OSError):
            os.write(2, said)
        raise SystemExit(LOST)
    os.close(child)
    return process.wait()


def _make_raw(attributes: list[Any]) -> None:
    """Let what is typed pass as it is, and what comes be shown as it is; nothing typed is lost."""
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
    """Give a terminal the size of another."""
    with suppress(OSError):
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)


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


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(shell_status(-number))
