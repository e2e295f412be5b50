"""A runtime whose calls are carried out by a process of the job's user inside the job's cgroups.

LXC asks who the caller is and which cgroups it is in; pytest itself is root and in none.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oar_lxc.container.runtime import StartedContainer, Starter
from oar_lxc.errors import ContainerError
from tests.pretend import PYTHON, PretendJob
from tests.unit.fakes.runtime import StarterByStarting

LONGEST = 1 << 16  # bytes of a call or an answer

# The other end. It runs from the copy of the checkout that every user may read.
SERVER = f"""
import os, pickle, socket, sys
from pathlib import Path
from oar_lxc.agent.prepared import environ_here, open_job
from oar_lxc.linux.cgroups import enter_cgroups
from oar_lxc.container.job_namespaces import JobNamespaces
from oar_lxc.container.lxc_runtime import LxcRuntime
from oar_lxc.errors import ContainerError

layout, published = open_job(int(sys.argv[1]))
enter_cgroups(published.cgroups, published.unit)
os.environ.update(environ_here(layout))
namespaces = JobNamespaces(layout)
namespaces.enter()
connection = socket.socket(fileno=os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
while True:
    call, fds, _, _ = socket.recv_fds(connection, {LONGEST}, 3)
    if not call:
        break
    directory, method, arguments = pickle.loads(call)
    try:
        if method == "wait":
            answer = os.waitpid(arguments[0], 0)[1], None
        else:
            runtime = LxcRuntime(Path(directory), namespaces, "node1", published.unified)
            answer = getattr(runtime, method)(*arguments, *fds), None
    except ContainerError as error:
        answer = None, (error.container, error.node, error.reason, error.log)
    except Exception as error:
        answer = None, error
    finally:
        for fd in fds:
            os.close(fd)
    connection.send(pickle.dumps(answer))
"""


class UserRuntime:
    """A runtime at the other end of a socket."""

    def __init__(self, connection: socket.socket, directory: Path) -> None:
        self._connection = connection
        self._directory = directory

    def make_network(self) -> None:
        self._call("make_network")

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        return str(self._call("in_network", list(argv), text))

    def names(self) -> list[str]:
        return list(self._call("names"))

    def state(self, name: str) -> str:
        return str(self._call("state", name))

    def init_pid(self, name: str) -> int:
        return int(self._call("init_pid", name))

    def start(self, name: str) -> StartedContainer:
        started = self._call("start", name)
        assert isinstance(started, StartedContainer)
        return started

    @contextmanager
    def starting(self) -> Iterator[Starter]:
        yield StarterByStarting(self.start)

    def kill(self, names: Sequence[str], timeout: float, for_good: bool = False) -> list[str]:
        return list(self._call("kill", list(names), timeout, for_good))

    def log_tail(self, name: str) -> list[str]:
        return list(self._call("log_tail", name))

    def shutdown(self, names: Sequence[str], timeout: float) -> list[str]:
        return list(self._call("shutdown", list(names), timeout))

    def freeze(self, name: str) -> None:
        self._call("freeze", name)

    def unfreeze(self, name: str) -> None:
        self._call("unfreeze", name)

    def attach(self, name: str, argv: Sequence[str], stdin: int, stdout: int, stderr: int) -> int:
        return int(self._call("attach", name, list(argv), fds=(stdin, stdout, stderr)))

    def wait(self, pid: int) -> int:
        """Wait for what was attached; return its wait status."""
        return int(self._call("wait", pid))

    def at(self, directory: Path) -> UserRuntime:
        """Return a runtime over another directory, in the same process."""
        return UserRuntime(self._connection, directory)

    def _call(self, method: str, *arguments: Any, fds: Sequence[int] = ()) -> Any:
        call = pickle.dumps((str(self._directory), method, arguments))
        socket.send_fds(self._connection, [call], list(fds))
        result, error = pickle.loads(self._connection.recv(LONGEST))
        if isinstance(error, tuple):
            raise ContainerError(*error)
        if error is not None:
            raise error
        return result


@contextmanager
def user_runtime(job: PretendJob, directory: Path) -> Iterator[UserRuntime]:
    """Start the other end, and end it afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = job.environ() | {"OAR_LXC_SECRET": "seen"}  # what the contract looks for inside
    argv = [PYTHON, "-c", SERVER, str(job.id)]
    with ours, job.start(argv, environ, theirs.fileno()) as process:
        theirs.close()
        try:
            yield UserRuntime(ours, directory)
        finally:
            ours.close()
            try:
                said = process.communicate(timeout=10)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert (process.returncode, said) == (0, "")
