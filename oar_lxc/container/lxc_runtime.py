"""The runtime with LXC's bindings, as the job's user.

When a call fails, the bindings return False without a reason: the runtime reads the reason from
LXC's log. The bindings hold Python's global lock while they work: to start two containers at the
same time takes two processes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from oar_lxc.container.command import environment_inside, run_command
from oar_lxc.container.command_socket import command_socket
from oar_lxc.container.halt import HALT_COMMAND, halt_signal
from oar_lxc.container.job_namespaces import JobNamespaces, NetworkThread
from oar_lxc.container.job_network import make_bridge
from oar_lxc.container.lxc_log import log_size, log_tail, why_full, why_no_init
from oar_lxc.container.lxc_starter import LxcStarter
from oar_lxc.container.runtime import StartedContainer, Starter
from oar_lxc.errors import ContainerError, OarLxcError
from oar_lxc.linux.deadline import Deadline
from oar_lxc.linux.pidfd import Handles
from oar_lxc.linux.process import parent
from oar_lxc.linux.run import Program, run
from oar_lxc.model.layout import CONFIG_FILE
from oar_lxc.model.states import FROZEN, RUNNING, STOPPED, not_running

MOST_AT_ONCE = 16  # containers that are started at one time on a node


class LxcRuntime:
    """The containers of a job on this node, through the lxc bindings.

    Args:
        directory: LXC's path, which has a subdirectory for each container.
        namespaces: the job's; the process must have entered them.
        node: name of this node, for errors.
        cgroup: the job's delegated cgroup, if it is of version 2.
    """

    def __init__(
        self, directory: Path, namespaces: JobNamespaces, node: str = "", cgroup: str = ""
    ) -> None:
        _bindings()
        self._directory = directory
        self._namespaces = namespaces
        self._network = NetworkThread(namespaces, bool(cgroup))
        self._node = node
        self._cgroup = cgroup
        self._program: Program | None = None

    def make_network(self) -> None:
        """Make the devices that join containers to the job's network, unless they are there."""
        make_bridge(self._namespaces, self._network)

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program as root in the job's network namespace; return what it wrote."""
        return run(argv, input=text, first=self._namespaces.become_network_root).stdout

    def names(self) -> list[str]:
        """Return the names of all containers, sorted."""
        with os.scandir(self._directory) as entries:
            return sorted(x.name for x in entries if (Path(x.path) / CONFIG_FILE).is_file())

    def state(self, name: str) -> str:
        """Return LXC's word for a container's state."""
        return self._network.call(lambda: self._state(name))

    def _state(self, name: str) -> str:
        return str(self._container(name).state) if self._listens(name) else STOPPED

    def init_pid(self, name: str) -> int:
        """Return the process id of a container's init; -1 if the container does not run."""
        return self._network.call(lambda: self._init_pid(name))

    def _init_pid(self, name: str) -> int:
        return int(self._container(name).init_pid) if self._listens(name) else -1

    def start(self, name: str) -> StartedContainer:
        """Start a container and return when it is RUNNING."""
        with self.starting() as starter:
            starter.send([name])
            (one,) = starter.rest()
        if isinstance(one, ContainerError):
            raise one
        return one

    def come_up(self) -> None:
        """Start the program that starts containers, for the next :meth:`starting`.

        The caller must be in the job's delegated cgroups.
        """
        self._program = self._program or self._start_program()

    @contextmanager
    def starting(self) -> Iterator[Starter]:
        """Run the program that starts containers; it comes up while the caller makes them."""
        program, self._program = self._program or self._start_program(), None
        starter = LxcStarter(program, self._directory, self._error)
        try:
            yield starter
        finally:
            starter.close()
            program.close()

    def _start_program(self) -> Program:
        at_once = 2 * len(os.sched_getaffinity(0))  # twice, as LXC often waits for the kernel
        place = str(Path(_bindings().__file__).parent.parent)
        program = str(Path(__file__).with_name("starter.py"))
        options = [place, str(min(at_once, MOST_AT_ONCE)), *filter(None, [self._cgroup])]
        argv = [sys.executable, "-I", "-S", program, *options]
        return Program(argv, first=self._namespaces.become_lxc)

    def _error(self, name: str, reason: str) -> ContainerError:
        log = self.log_tail(name)
        if why := why_no_init(log):
            return ContainerError(name, self._node, why)
        return ContainerError(name, self._node, reason, log)

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
            if title == b"[lxc monitor] " + os.fsencode(f"{self._directory} {name}"):
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
            return self.attach(name, ["/bin/sh", "-c", HALT_COMMAND], null, null, null)
        except ContainerError:
            return 0
        finally:
            os.close(null)

    def freeze(self, name: str) -> None:
        """Freeze a container; the caller must be in the job's delegated cgroups."""
        if not self._network.call(lambda: self._container(name).freeze()):
            raise ContainerError(name, self._node, "LXC could not freeze it", self.log_tail(name))

    def unfreeze(self, name: str) -> None:
        """Thaw a container; the caller must be in the job's delegated cgroups."""
        if not self._network.call(lambda: self._container(name).unfreeze()):
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
        streams = (stdin, stdout, stderr)
        return self._network.call(lambda: self._attach(name, argv, streams, own_group))

    def _attach(
        self, name: str, argv: Sequence[str], streams: tuple[int, int, int], own_group: bool
    ) -> int:
        lxc = _bindings()
        container = self._container(name)
        if container.state != RUNNING:
            raise ContainerError(name, self._node, not_running(container.state))
        written = log_size(self._directory / name)
        environment = environment_inside(self._directory / name)
        path = dict(v.split("=", 1) for v in environment)["PATH"]
        pid = container.attach(
            partial(run_command, path, name, own_group),
            list(argv),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
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
        return log_tail(self._directory / name)

    def _listens(self, name: str) -> bool:
        """Whether LXC's monitor of a container listens for commands, that is, runs."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.setblocking(False)
            try:
                peer.connect(command_socket(self._directory, name))
            # No process listens, or its queue is full, which LXC's own never is.
            except OSError:
                return False
            return True

    def _container(self, name: str) -> Any:
        try:
            container = _bindings().Container(name, str(self._directory))
        except RuntimeError as error:
            reason = f"LXC cannot use {self._directory}: {error}"
            raise ContainerError(name, self._node, reason) from error
        # The container and its list of networks refer to each other, and keep LXC's log open,
        # until Python collects garbage. An agent that is a fork never does: drop the list here.
        container.network = None
        return container


def _kill(pids: Sequence[int], end: Deadline) -> None:
    """Send SIGKILL to processes, and wait until they are dead or the time is over."""
    with Handles() as handles:
        for pid in pids:
            handles.hold(pid)
        handles.kill(pids)
        handles.wait(end)


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
