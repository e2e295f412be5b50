"""Stand-ins for what the unit tests do without: LXC, OAR's programs, other nodes.

A fake container's init is a real process, and a command that is run in one is a real command; what
is fake is only that nothing contains them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import pytest

from oar_lxc.agent.main import carry_out, read_request
from oar_lxc.agent.node import OnNode
from oar_lxc.client import session
from oar_lxc.container.runtime import (
    FROZEN,
    LOG_FILE,
    PATH_INSIDE,
    RUNNING,
    STOPPED,
    Started,
    Starter,
    become_command,
    not_running,
)
from oar_lxc.errors import ContainerError, NodeError, OarLxcError
from oar_lxc.linux.ed25519 import KeyPair
from oar_lxc.model import wire
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.description import CONFIG_FILE
from oar_lxc.model.job import Job
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.published import READY, PublishedJob
from oar_lxc.remote.agents import Coming, OnEvent, Remote

IMAGE = "debian-12"
KEYS = {"authorized": "ssh-ed25519 USER\n", "client": "CLIENT KEY\n"}
HOST_KEY = KeyPair(bytes(64))
# Becomes root of a user namespace; here it only stays who it is.
LXC_USERNSEXEC = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'


def add_program(directory: Path, name: str, body: str) -> None:
    """Write a shell script that can be run by its name where ``directory`` is on PATH."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def recorder(log: Path, then: str = "") -> str:
    """Return a shell script that appends its argv to a file, for :func:`recorded`."""
    return f'printf "%s\\0" "$#" "$@" >> "{log}"\n{then}'


def recorded(log: Path) -> list[list[str]]:
    """Return the arguments of each call of a :func:`recorder`, oldest first."""
    words = log.read_text().split("\0")[:-1] if log.exists() else []
    calls = []
    while words:
        count = int(words.pop(0))
        calls.append(words[:count])
        del words[:count]
    return calls


def invoke(command: click.Command, *arguments: str) -> int:
    """Run a command of the command line; return its exit status. Its output is pytest's to catch.

    click's own runner tells the two streams apart by an option that newer versions do not have.
    """
    with pytest.raises(SystemExit) as caught:
        command.main(list(arguments), prog_name="oar-lxc")
    return caught.value.code if isinstance(caught.value.code, int) else 0


@contextmanager
def deep_tree(parent: Path, name: str, depth: int) -> Iterator[Path]:
    """Make directories of one name, one in the other; remove what is left of them.

    Python's own removal, which pytest uses, gives up at less than 1,000 levels.
    """
    top = parent / name
    fd = os.open(parent, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        yield top
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until(condition: Callable[[], object], seconds: float = 5) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class StarterByStarting:
    """A starter that starts each container when it is asked what became of it."""

    def __init__(self, start: Callable[[str], Started | ContainerError]) -> None:
        self._start = start
        self._sent: list[str] = []

    def send(self, names: Sequence[str]) -> None:
        self._sent += names

    def finished(self) -> Iterator[Started | ContainerError]:
        while self._sent:
            yield self._start(self._sent.pop(0))

    def rest(self) -> Iterator[Started | ContainerError]:
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
        self.told = directory.with_name("told")  # what shells without a command read, by name
        self.told.mkdir(exist_ok=True)

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

    def start(self, name: str) -> Started:
        one = self.begin(name)
        if isinstance(one, ContainerError):
            raise one
        return one

    @contextmanager
    def starting(self) -> Iterator[Starter]:
        yield StarterByStarting(self.begin)

    def begin(self, name: str) -> Started | ContainerError:
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
        return Started(name, pid, time.monotonic() - begin)

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


class FakeNode:
    """A node that is prepared for a job, below a temporary directory.

    Args:
        path: where its files go.
        name: its name.
        nodes: names of all nodes of the job.
        job_id: the job.
        user: the job's user.
    """

    def __init__(
        self,
        path: Path,
        name: str = "node1",
        nodes: Sequence[str] = ("node1",),
        job_id: int = 42,
        user: str = "alice",
    ) -> None:
        self.layout = JobLayout(job_id, path)
        for directory in (self.layout.images / IMAGE / "rootfs", self.layout.containers):
            directory.mkdir(parents=True)
        self.layout.private.mkdir(mode=0o700)
        self.cgroup = path / "cgroup"
        self.cgroup.mkdir()
        network = JobNetwork.of(job_id, nodes)
        self.published = PublishedJob(
            job_id=job_id,
            user=user,
            node=name,
            nodes=network.nodes,
            state=READY,
            first_id=0x70000000,
            id_count=65536,
            cgroups=(str(self.cgroup),),
            bridge=self.layout.bridge,
            gateway=str(network.node_address(name)),
        )
        self.layout.published.write_text(self.published.to_json())
        self.runtime = FakeRuntime(self.layout.containers, name)

    def on(self, emit: Callable[[wire.Event], None]) -> OnNode:
        """Return what the agent of this node acts on."""
        return OnNode(self.layout, self.published, self.runtime, emit)

    def run(self, request: wire.Request) -> list[wire.Event]:
        """Have the agent carry out a request; return its events."""
        events: list[wire.Event] = []
        carry_out(self.on(events.append), request)
        return events

    def files(self) -> list[str]:
        """Return all that is in the directory of containers."""
        return sorted(str(p.relative_to(self.layout.containers)) for p in self._below())

    def _below(self) -> Iterator[Path]:
        return self.layout.containers.rglob("*")


class FakeRemote(Remote):
    """The way to the agents of fake nodes, with lines between as on the real one.

    Args:
        nodes: the nodes by name.
        local: the one that the caller is on, empty on a frontend.
        unreachable: names of those that do not answer.
    """

    def __init__(
        self, nodes: Mapping[str, FakeNode], local: str = "", unreachable: Sequence[str] = ()
    ) -> None:
        super().__init__(next(iter(nodes.values())).layout.job_id, tuple(nodes), local)
        self.by_name = dict(nodes)
        self.unreachable = list(unreachable)

    def call(
        self,
        request: wire.Request | Coming,
        on_event: OnEvent,
        nodes: Sequence[str] | None = None,
    ) -> list[NodeError]:
        failures = []
        asked = request.make() if isinstance(request, Coming) else request
        line = wire.encode(asked).decode()
        for name in self.nodes if nodes is None else nodes:
            if name in self.unreachable:
                failures.append(
                    NodeError(name, "oarsh or the agent failed (status 255): no route")
                )
                continue
            node = self.by_name[name]

            def emit(event: wire.Event, name: str = name) -> None:
                told = wire.decode(wire.encode(event), wire.EVENTS)
                assert told is not None
                on_event(name, told)

            try:
                carry_out(node.on(emit), read_request(asked.kind, line))
            except OarLxcError as error:
                failures.append(NodeError(name, str(error)))
        return failures

    def running(self) -> list[str]:
        """Return the names of all containers that run on any node."""
        return sorted(name for node in self.by_name.values() for name in node.runtime.running())

    def close(self) -> None:
        """Kill whatever a test left."""
        for node in self.by_name.values():
            node.runtime.close()


@contextmanager
def prepared_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> Iterator[FakeRemote]:
    """Give a job prepared nodes; sessions of it are on the first, and reach the others."""
    add_program(tmp_path / "bin", "lxc-usernsexec", LXC_USERNSEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    nodes = {name: FakeNode(tmp_path / name, name, job.nodes, job.id) for name in job.nodes}
    remote = FakeRemote(nodes, job.nodes[0])
    state = tmp_path / remote.local
    monkeypatch.setattr(session, "JobLayout", lambda job_id: JobLayout(job_id, state))
    monkeypatch.setattr(session, "Remote", lambda job_id, names, local: remote)
    # Their cgroups are plain directories, in which no files of limits come to be.
    monkeypatch.setattr("oar_lxc.container.create.make_walls", lambda paths, name, limits: None)
    try:
        yield remote
    finally:
        remote.close()
