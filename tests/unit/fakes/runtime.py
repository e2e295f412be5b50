"""Containers that are plain processes, in the place of LXC."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from oar_lxc.container.command import PATH_INSIDE, become_command
from oar_lxc.container.runtime import StartedContainer, Starter
from oar_lxc.errors import CommandError, ContainerError
from oar_lxc.model.layout import CONFIG_FILE, LOG_FILE
from oar_lxc.model.states import FROZEN, RUNNING, STOPPED, not_running
from tests.unit.fakes.programs import alive, wait_until

IMAGE = "debian-12"


class StarterByStarting:
    """A starter that starts each container when it is asked what became of it."""

    def __init__(self, start: Callable[[str], StartedContainer | ContainerError]) -> None:
        self._start = start
        self._sent: list[str] = []

    def send(self, names: Sequence[str]) -> None:
        self._sent += names

    def finished(self) -> Iterator[StartedContainer | ContainerError]:
        while self._sent:
            yield self._start(self._sent.pop(0))

    def rest(self) -> Iterator[StartedContainer | ContainerError]:
        return self.finished()

    def close(self) -> None:
        self._sent.clear()


class FakeRuntime:
    """A runtime whose containers are a ``sleep`` each.

    Args:
        directory: a directory per container, as LXC's path.
        node: name of this node, for errors.
        broken: what LXC's log says of those that do not start, by name.
        immortal: names of those that survive being killed.
    """

    def __init__(
        self,
        directory: Path,
        node: str = "",
        broken: Mapping[str, Sequence[str]] | None = None,
        immortal: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.inits = directory.with_name(
            "inits"
        )  # survives the removal of a container's directory
        self.inits.mkdir(exist_ok=True)
        self.node = node
        self.broken = dict(broken or {})
        self.immortal = list(immortal)
        self.stubborn: list[str] = []
        self.ran: list[tuple[tuple[str, ...], str]] = []  # programs in the job's network
        self.lacking: tuple[str, ...] = ()
        self.told = directory.with_name("told")  # what shells without a command read, by name
        self.told.mkdir(exist_ok=True)

    def make_network(self) -> None:
        """Do nothing: there is no network."""

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Note the program, and what it reads."""
        self.ran.append((tuple(argv), text))
        return self.unable(argv)

    def unable(self, argv: Sequence[str]) -> str:
        """Fail as a kernel does that has no module for something in ``lacking``."""
        for word in argv:
            if word in self.lacking:
                raise CommandError(argv, 2, "Error: Specified qdisc kind is unknown.")
        return ""

    def names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return sorted(x.name for x in entries if (Path(x.path) / CONFIG_FILE).is_file())

    def state(self, name: str) -> str:
        pid = self.init_pid(name)
        if pid <= 0:
            return STOPPED
        return FROZEN if _state_of(pid) == "T" else RUNNING

    def init_pid(self, name: str) -> int:
        try:
            pid = int((self.inits / name).read_text())
        except FileNotFoundError:
            return -1
        return pid if alive(pid) else -1

    def start(self, name: str) -> StartedContainer:
        one = self.begin(name)
        if isinstance(one, ContainerError):
            raise one
        return one

    @contextmanager
    def starting(self) -> Iterator[Starter]:
        yield StarterByStarting(self.begin)

    def begin(self, name: str) -> StartedContainer | ContainerError:
        """Start a container; return what becomes of it."""
        if name in self.broken:
            log = self.broken[name]
            (self.directory / name / LOG_FILE).write_text("".join(f"{line}\n" for line in log))
            return ContainerError(name, self.node, "LXC could not start it", log)
        null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
        begin = time.monotonic()
        pid = os.posix_spawnp(
            "sleep", ["sleep", "600"], os.environ, file_actions=null, setsid=True
        )
        (self.inits / name).write_text(str(pid))
        return StartedContainer(name, pid, time.monotonic() - begin)

    def kill(self, names: Sequence[str], timeout: float, for_good: bool = False) -> list[str]:
        mortal = [name for name in names if name not in self.immortal]
        pids = {name: pid for name in mortal if (pid := self.init_pid(name)) > 0}
        for pid in pids.values():
            _kill_and_reap(pid)
        return [name for name in names if self.state(name) != STOPPED]

    def shutdown(self, names: Sequence[str], timeout: float) -> list[str]:
        pids = {name: pid for name in names if (pid := self.init_pid(name)) > 0}
        for name, pid in pids.items():
            if name not in self.immortal and name not in self.stubborn:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)
        for name, pid in pids.items():
            if name not in self.immortal and name not in self.stubborn:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        return [name for name in names if self.state(name) != STOPPED]

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP, "T", "LXC could not freeze it")

    def unfreeze(self, name: str) -> None:
        self._signal(name, signal.SIGCONT, "S", "LXC could not thaw it")

    def _signal(self, name: str, number: int, state: str, why: str) -> None:
        pid = self.init_pid(name)
        if pid <= 0:
            raise ContainerError(name, self.node, why)
        os.kill(pid, number)
        wait_until(lambda: _state_of(pid) == state)

    def log_tail(self, name: str) -> list[str]:
        return list(self.broken.get(name, ()))

    def attach(self, name: str, argv: Sequence[str], stdin: int, stdout: int, stderr: int) -> int:
        if self.state(name) != RUNNING:
            raise ContainerError(name, self.node, not_running(self.state(name)))
        if list(argv) == ["/bin/sh"]:  # a script, which would change this machine's own files
            argv = ["/bin/sh", "-c", 'cat > "$0"', str(self.told / name)]
        pid = os.fork()
        if pid == 0:
            try:
                for number, fd in enumerate((stdin, stdout, stderr)):
                    os.dup2(fd, number)
                os.environ.clear()
                os.environ.update(PATH=PATH_INSIDE, HOME="/root")
                os._exit(become_command(argv, PATH_INSIDE, name))
            finally:
                os._exit(1)
        return pid

    def running(self) -> list[str]:
        """Return the names of all that run, whatever became of their directories."""
        return sorted(p.name for p in self.inits.iterdir() if self.init_pid(p.name) > 0)

    def close(self) -> None:
        """Kill whatever a test left."""
        self.immortal = []
        self.kill(self.running(), 5)


def _state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does: T where it was stopped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat.rpartition(")")[2].split()[0]


def _kill_and_reap(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    # One that a worker process started is not our child.
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    wait_until(lambda: not alive(pid))
