"""The runtime, through which all calls to LXC go.

:class:`Runtime` is the interface; :class:`LxcRuntime` implements it with the lxc bindings, as the
job's user. When a call fails, the bindings return False without a reason: the runtime reads the
reason from LXC's log. The bindings hold Python's global lock while they work: to start two
containers at the same time takes two processes.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from oar_lxc.errors import ContainerError, OarLxcError, printable
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import parent
from oar_lxc.linux.run import Program, running
from oar_lxc.linux.signals import default_signals
from oar_lxc.model.description import read_description
from oar_lxc.model.layout import CONFIG_FILE, LOG_FILE, PATH_LINK

KILL_TIMEOUT = 10.0  # seconds after SIGKILL until a container that still runs is reported
START_TIMEOUT = 60.0  # seconds to wait for starts under way when the launch is given up
MOST_AT_ONCE = 16  # containers that are started at one time on a node
# Messages in the log of every rootless container; they explain no failure.
_NOISE = (
    "Failed to allocate new network namespace id",
    "No security context received",
    'Unsupported config key "lxc.seccomp"',
)
LOG_TAIL = 8  # lines of LXC's log that go into an error
_PEER = struct.Struct("3i")  # struct ucred: process, user, group
_LONGEST_ADDRESS = 106  # bytes of an abstract socket's name, without the zeros at both ends
# LXC's words for states.
RUNNING = "RUNNING"
STOPPED = "STOPPED"
FROZEN = "FROZEN"
PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Started:
    """A container that runs.

    Attributes:
        name: its name.
        init_pid: the process id of its init on the node.
        seconds: from the call of LXC until the container is RUNNING.
    """

    name: str
    init_pid: int
    seconds: float


# It asks which init the image has: /proc/1 does not always show which init runs.
_HALT = """\
case "$(readlink -f /sbin/init)" in */openrc-init) exec openrc-shutdown --poweroff now ;; esac
for way in poweroff halt "shutdown -h now" "init 0"; do
    command -v ${way%% *} >/dev/null && exec $way
done
exit 127
"""


class Starter(Protocol):
    """A process that starts containers, several at a time, while the caller does other work."""

    def send(self, names: Sequence[str]) -> None:
        """Let containers be started, and do not wait for them."""

    def finished(self) -> Iterator[Started | ContainerError]:
        """Yield the outcomes since the last call; do not wait for more."""

    def rest(self) -> Iterator[Started | ContainerError]:
        """Yield the outcomes of all other containers that were sent; accept no more containers."""

    def close(self) -> None:
        """Start no more containers, and wait for the starts under way."""


class Runtime(Protocol):
    """The operations on the containers of one directory.

    Each container has a subdirectory of its name with a file ``config``.
    """

    def names(self) -> list[str]:
        """Return the names of all containers, sorted; raise OSError if they cannot be read."""

    def state(self, name: str) -> str:
        """Return LXC's word for a container's state: RUNNING, STOPPED, FROZEN …"""

    def init_pid(self, name: str) -> int:
        """Return the process id of a container's init; -1 if the container does not run."""

    def start(self, name: str) -> Started:
        """Start a container; raise ContainerError with the end of LXC's log if that fails."""

    def starting(self) -> AbstractContextManager[Starter]:
        """Return a context manager that gives its block a starter, and closes it afterwards."""

    def kill(self, names: Sequence[str], timeout: float, for_good: bool = False) -> list[str]:
        """Kill containers all at once; return those that still run after ``timeout`` seconds.

        With ``for_good``, the caller must remove the containers' cgroups; until then, these
        containers cannot be started again.
        """

    def shutdown(self, names: Sequence[str], timeout: float) -> list[str]:
        """Ask the inits of containers to halt, all at once; thaw frozen containers for it.

        Returns the containers that still run after ``timeout`` seconds.
        """

    def freeze(self, name: str) -> None:
        """Stop all processes of a container where they are; raise ContainerError on failure."""

    def unfreeze(self, name: str) -> None:
        """Let a frozen container run on; raise ContainerError on failure."""

    def log_tail(self, name: str) -> list[str]:
        """Return the last lines of LXC's log for a container, without their time stamps."""

    def attach(self, name: str, argv: Sequence[str], stdin: int, stdout: int, stderr: int) -> int:
        """Start a command in a container; return a process id to wait for.

        The process has the command's exit status. If the command cannot be executed, the status
        is 127 or 126, and ``stderr`` gets one sentence; see :func:`become_command`.
        """


class LxcRuntime:
    """The calling user's containers below one directory, through the lxc bindings.

    Args:
        directory: has a subdirectory for each container; LXC gets the path of :func:`lxc_path`.
        node: name of this node, for errors.
    """

    def __init__(self, directory: Path, node: str = "") -> None:
        _bindings()
        self._directory = directory
        self._node = node

    def names(self) -> list[str]:
        """Return the names of all containers, sorted."""
        with os.scandir(self._directory) as entries:
            return sorted(x.name for x in entries if (Path(x.path) / CONFIG_FILE).is_file())

    def state(self, name: str) -> str:
        """Return LXC's word for a container's state."""
        return str(self._container(name).state) if self._listens(name) else STOPPED

    def init_pid(self, name: str) -> int:
        """Return the process id of a container's init; -1 if the container does not run."""
        return int(self._container(name).init_pid) if self._listens(name) else -1

    def start(self, name: str) -> Started:
        """Start a container and return when it is RUNNING."""
        with self.starting() as starter:
            starter.send([name])
            (one,) = starter.rest()
        if isinstance(one, ContainerError):
            raise one
        return one

    @contextmanager
    def starting(self) -> Iterator[Starter]:
        """Start the program that starts containers; it comes up while the caller makes them."""
        at_once = 2 * len(os.sched_getaffinity(0))  # twice, as LXC often waits for the kernel
        place = str(Path(_bindings().__file__).parent.parent)
        program = str(Path(__file__).with_name("starter.py"))
        options = [place, str(min(at_once, MOST_AT_ONCE))]
        with running([sys.executable, "-I", "-S", program, *options]) as process:
            starter = LxcStarter(process, self._directory, self._error)
            try:
                yield starter
            finally:
                starter.close()

    def _error(self, name: str, reason: str) -> ContainerError:
        return ContainerError(name, self._node, reason, self.log_tail(name))

    def kill(self, names: Sequence[str], timeout: float, for_good: bool = False) -> list[str]:
        """Kill containers all at once and wait until LXC calls them STOPPED.

        LXC's monitor takes several times longer to clean up than the container takes to die. With
        ``for_good``, kill the monitors, too.
        """
        end = Deadline.after(timeout)
        left = list(names)
        while True:
            # Look for inits in each round: a container that is just starting has none at first.
            inits = {name: pid for name in left if (pid := self.init_pid(name)) > 0}
            monitors = [self._monitor(name, pid) for name, pid in inits.items() if for_good]
            _kill([*filter(None, monitors), *inits.values()], end)
            left = [name for name in left if self.state(name) != STOPPED]
            if not left or end.passed:
                return left
            time.sleep(0.005)

    def _monitor(self, name: str, init_pid: int) -> int:
        """Return the process id of a container's monitor, the init's parent; 0 if it has none."""
        with suppress(OSError, ValueError):
            monitor = parent(init_pid)
            title = Path(f"/proc/{monitor}/cmdline").read_bytes().rstrip(b"\0")
            path = lxc_path(self._directory, name)
            if title == b"[lxc monitor] " + os.fsencode(f"{path} {name}"):
                return monitor
        return 0

    def shutdown(self, names: Sequence[str], timeout: float) -> list[str]:
        """Tell each container's init to halt, in the way that the init knows, and wait.

        systemd and busybox halt at a signal, which is in the container's configuration. Other
        inits do not reliably halt at SIGPWR, LXC's default (sysvinit runs a script that Debian
        does not have): for them, run the container's own halt command inside, and send SIGPWR only
        if that fails.
        """
        end = Deadline.after(timeout)
        left = [name for name in names if self.state(name) != STOPPED]
        commands: dict[str, int] = {}
        try:
            for name in left:
                frozen = self.state(name) == FROZEN
                number = halt_signal(self._directory / name)
                if number != signal.SIGPWR:
                    self._signal(name, number)
                if frozen:
                    self.unfreeze(name)
                if number == signal.SIGPWR:
                    commands[name] = self._begin_halt(name)
            while left and not end.passed:
                time.sleep(0.01)
                for name, pid in list(commands.items()):
                    if pid == 0 or (ended := os.waitpid(pid, os.WNOHANG))[0]:
                        del commands[name]
                        if pid == 0 or ended[1]:
                            self._signal(name, signal.SIGPWR)
                left = [name for name in left if self.state(name) != STOPPED]
        finally:
            for pid in filter(None, commands.values()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return left

    def _signal(self, name: str, number: int) -> None:
        pid = self.init_pid(name)
        if pid > 0:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _begin_halt(self, name: str) -> int:
        """Start the halt command in a container; return its process id, or 0 if that fails."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return self.attach(name, ["/bin/sh", "-c", _HALT], null, null, null)
        except ContainerError:
            return 0
        finally:
            os.close(null)

    def freeze(self, name: str) -> None:
        """Freeze a container; the caller must be in the job's delegated cgroups."""
        if not self._container(name).freeze():
            raise ContainerError(name, self._node, "LXC could not freeze it", self.log_tail(name))

    def unfreeze(self, name: str) -> None:
        """Thaw a container; the caller must be in the job's delegated cgroups."""
        if not self._container(name).unfreeze():
            raise ContainerError(name, self._node, "LXC could not thaw it", self.log_tail(name))

    def attach(
        self,
        name: str,
        argv: Sequence[str],
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        own_group: bool = False,
    ) -> int:
        """Start a command as the container's root, in a clean environment.

        With ``own_group``, the command leads a process group, to which signals can be sent.
        """
        lxc = _bindings()
        container = self._container(name)
        if container.state != RUNNING:
            raise ContainerError(name, self._node, not_running(container.state))
        written = log_size(self._directory / name)
        environment = environment_inside(self._directory / name)
        path = dict(v.split("=", 1) for v in environment)["PATH"]
        pid = container.attach(
            partial(_run_command, path, name, own_group),
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env_policy=lxc.LXC_ATTACH_CLEAR_ENV,
            extra_env_vars=environment,
            initial_cwd="/root",
        )
        if pid <= 0:
            if full := why_full(self._directory / name, written):
                raise ContainerError(name, self._node, full)
            raise ContainerError(
                name, self._node, "LXC could not attach to it", self.log_tail(name)
            )
        return int(pid)

    def log_tail(self, name: str) -> list[str]:
        """Return the last lines of LXC's log for a container, without their time stamps."""
        try:
            text = (self._directory / name / LOG_FILE).read_text(errors="replace")
        except OSError:
            return []
        lines = [re.sub(r"^(\S+ )?\S+ \d{14}\.\d+ ", "", x) for x in text.splitlines()]
        return [x for x in lines if not any(noise in x for noise in _NOISE)][-LOG_TAIL:]

    def _listens(self, name: str) -> bool:
        """Whether LXC's monitor of a container listens for commands, that is, runs.

        The process that listens must be of this user. Another user can take the socket's name of a
        container that has ended; LXC does not check this, and waits for the answer for ever.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.setblocking(False)
            try:
                peer.connect(_command_socket(lxc_path(self._directory, name), name))
            # No process listens, or its queue is full, which LXC's own never is.
            except OSError:
                return False
            ids = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return bool(_PEER.unpack(ids)[1] == os.getuid())

    def _container(self, name: str) -> Any:
        try:
            container = _bindings().Container(name, lxc_path(self._directory, name))
        except RuntimeError as error:
            reason = f"LXC cannot use {self._directory}: {error}"
            raise ContainerError(name, self._node, reason) from error
        # The container and its list of networks refer to each other, and keep LXC's log open,
        # until Python collects garbage. An agent that is a fork never does: drop the list here.
        container.network = None
        return container


class LxcStarter:
    """A starter that uses the program :mod:`oar_lxc.container.starter`.

    Args:
        program: the running program.
        directory: the containers' directory.
        error: makes an error from a container's name and a reason.
    """

    def __init__(
        self, program: Program, directory: Path, error: Callable[[str, str], ContainerError]
    ) -> None:
        self._program = program
        self._directory = directory
        self._error = error
        self._left: set[str] = set()

    def send(self, names: Sequence[str]) -> None:
        """Let containers be started, and do not wait for them."""
        self._left.update(names)
        lines = (f"{name} {_renew_lxc_path(self._directory, name)}\n" for name in names)
        self._program.send("".join(lines).encode())

    def finished(self) -> Iterator[Started | ContainerError]:
        """Yield the outcomes that the program has written so far."""
        return self._told(wait=False)

    def rest(self) -> Iterator[Started | ContainerError]:
        """Yield all other outcomes, and an error for each container that was not tried."""
        self._program.feed(b"")
        yield from self._told(wait=True)
        self.close()
        for name in sorted(self._left):
            yield self._error(name, "it was not started: what starts containers was killed")

    def close(self) -> None:
        """Wait for the program's end; to kill it during a start leaves more to clean up."""
        with suppress(OarLxcError):
            self._program.finish(START_TIMEOUT)

    def _told(self, *, wait: bool) -> Iterator[Started | ContainerError]:
        rest = b""
        while rest or wait or select.select([self._program.stdout], [], [], 0)[0]:
            data = os.read(self._program.stdout, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")  # the rest of an unfinished line comes soon
            yield from map(self._read, lines)

    def _read(self, line: bytes) -> Started | ContainerError:
        name, seconds, pid = line.decode().split()
        self._left.discard(name)
        if int(pid) > 0:
            return Started(name, int(pid), float(seconds))
        return self._error(name, "LXC could not start it")


def lxc_path(directory: Path, name: str) -> str:
    """Return the path to give to LXC as its directory of containers, for one container.

    LXC makes the name of an abstract socket from this path and the container's name, and listens
    there for commands. All users and jobs of a node share one space of such names: a user who can
    guess a name can take it first, and then the container does not start.

    So each start uses a new path that cannot be guessed: a symbolic link with a random name, which
    leads to the directory of all containers. It is in the container's own directory, which other
    users cannot read.

    Source: ``lxc_make_abstract_socket_name`` of LXC.
    """
    try:
        return f"{directory}/{name}/{os.readlink(directory / name / PATH_LINK)}"
    except OSError:  # the container was never started
        return str(directory)


def _command_socket(path: str, name: str) -> bytes:
    """Return the socket address where LXC listens for commands to a container, as LXC makes it."""
    address = f"{path}/{name}/command"
    if len(os.fsencode(address)) >= _LONGEST_ADDRESS:
        number = 0xCBF29CE484222325  # FNV-1a of 64 bits
        for byte in os.fsencode(f"{path}/{name}"):
            number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        address = f"lxc/{number:016x}/command"
    return b"\0" + os.fsencode(address)


def _renew_lxc_path(directory: Path, name: str) -> str:
    """Make a new path for the next start of a container; see :func:`lxc_path`."""
    own = directory / name
    with suppress(OSError):  # if the container's directory is gone, LXC reports it
        before = own / Path(lxc_path(directory, name)).name
        after, link = os.urandom(8).hex(), own / f".{PATH_LINK}"
        (own / after).symlink_to("..")
        link.unlink(missing_ok=True)
        link.symlink_to(after)
        link.replace(own / PATH_LINK)
        if before.is_symlink():
            before.unlink()
    return lxc_path(directory, name)


def log_size(directory: Path) -> int:
    """Return the size of LXC's log for a container in bytes, for :func:`why_full`."""
    with suppress(OSError):
        return (directory / LOG_FILE).stat().st_size
    return 0


def why_full(directory: Path, written: int) -> str:
    """Return the error if a command failed because of the container's limit of processes.

    Args:
        directory: the container's directory.
        written: the size of LXC's log before the command was tried.

    Returns:
        The reason; empty if the limit is not the cause.
    """
    with suppress(OSError):
        with (directory / LOG_FILE).open("rb") as log:
            log.seek(written)
            if b"Resource temporarily unavailable - Failed to clone" not in log.read(1 << 16):
                return ""
        limit = read_description(directory).get("processes")
        if type(limit) is int and limit > 0:
            return (
                f"processes is {limit}, which leaves no room for a command: end some inside, or "
                "give its group more"
            )
    return ""


def halt_signal(directory: Path) -> int:
    """Return the signal at which a container's init halts, from the container's configuration."""
    with suppress(OSError, ValueError):
        text = (directory / CONFIG_FILE).read_text()
        if match := re.search(r"^lxc\.signal\.halt *= *SIG(RTMIN\+)?([A-Z0-9]+) *$", text, re.M):
            return (
                int(signal.SIGRTMIN) + int(match[2])
                if match[1]
                else signal.Signals[f"SIG{match[2]}"]
            )
    return signal.SIGPWR  # LXC's default


def environment_inside(directory: Path) -> list[str]:
    """Return the environment of a command that root runs in a container, as ``NAME=value``."""
    variables = {"PATH": PATH_INSIDE, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8"}
    found = read_description(directory).get("environment")
    variables.update(found if isinstance(found, dict) else {})
    return [f"{key}={value}" for key, value in variables.items()]


def _kill(pids: Sequence[int], end: Deadline) -> None:
    """Send SIGKILL to processes, and wait until they are dead or the time is over."""
    with Handles() as handles:
        for pid in pids:
            handles.hold(pid)
        handles.kill(pids)
        handles.wait(end)


def not_running(state: str) -> str:
    """Return why a command cannot run in a container of this state, and what the user can do."""
    cure = {STOPPED: "start it with `oar-lxc start`", FROZEN: "thaw it with `oar-lxc unfreeze`"}
    return f"it is {state}, not {RUNNING}" + (f": {cure[state]}" if state in cure else "")


def _run_command(path: str, name: str, own_group: bool, argv: Sequence[str]) -> int:
    """Replace this process, in a container, by a command; reset signals that Python ignores."""
    if own_group:
        os.setpgid(0, 0)
    default_signals()
    return become_command(argv, path, name)


def become_command(argv: Sequence[str], path: str, name: str) -> int:
    """Replace this process by a command; if that fails, say why on standard error.

    LXC's own function for this takes only UTF-8, and reports no error: its status of 127 may as
    well be the command's own.

    Args:
        argv: the command; bytes that are no UTF-8 as surrogates.
        path: where to look for it, in the form of ``PATH``.
        name: the container's name.

    Returns:
        The exit status that shells use: 127 if there is no such command, 126 if it cannot be
        executed.
    """
    words = [word.encode("utf-8", "surrogateescape") for word in argv]
    places = [b""] if b"/" in words[0] else [os.fsencode(p) + b"/" for p in path.split(":") if p]
    why = ""
    for place in places:
        file = place + words[0]
        try:
            try:
                os.execv(file, words)  # noqa: S606  # there is no shell between
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execv("/bin/sh", [b"sh", file, *words[1:]])  # noqa: S606  # as execvp(3) does
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(file):
                why = why or "not executable, as what its first line names is missing"
        except OSError as error:
            why = why or f"not executable ({error.strerror})"
    os.write(2, f"oar-lxc: {printable(argv[0])}: {why or 'no such command'} in {name}\n".encode())
    return 126 if why else 127


def _bindings() -> Any:
    """Return the lxc bindings, which have no types.

    Raises:
        OarLxcError: they are not installed.
    """
    try:
        import lxc
    except ImportError as error:
        raise OarLxcError(
            f"the lxc bindings are missing ({error}): apt-get install python3-lxc, or "
            "pip install lxc"
        ) from error
    return lxc
