"""A runtime whose calls are carried out by a process of the job's user inside the job's cgroups.

LXC asks who the caller is and which cgroups it is in; pytest itself is root and in none.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import pwd
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oar_lxc.cgroups import enter_cgroups
from oar_lxc.container import LxcRuntime, StartAll, Started
from oar_lxc.errors import ContainerError
from tests.integration.conftest import published
from tests.pretend import PretendJob

PR_SET_DUMPABLE = 4  # linux/prctl.h
LONGEST = 1 << 16  # bytes of a call or an answer


class UserRuntime:
    """A runtime at the other end of a socket."""

    def __init__(self, connection: socket.socket, directory: Path) -> None:
        self._connection = connection
        self._directory = directory

    def names(self) -> list[str]:
        return list(self._call("names"))

    def state(self, name: str) -> str:
        return str(self._call("state", name))

    def init_pid(self, name: str) -> int:
        return int(self._call("init_pid", name))

    def start(self, name: str) -> Started:
        started = self._call("start", name)
        assert isinstance(started, Started)
        return started

    @contextmanager
    def starting(self) -> Iterator[StartAll]:
        yield self._start_all

    def _start_all(self, batches: Iterable[Sequence[str]]) -> Iterator[Started | ContainerError]:
        for names in batches:
            yield from map(self.start, names)

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
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(job, ours, theirs))
    process.start()
    theirs.close()
    try:
        yield UserRuntime(ours, directory)
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()
        process.close()


def _serve(job: PretendJob, ours: socket.socket, theirs: socket.socket) -> None:
    ours.close()
    account, environ = pwd.getpwnam(job.user), job.environ()
    enter_cgroups(published(job).cgroups)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setresgid(*[account.pw_gid] * 3)
    os.setresuid(*[account.pw_uid] * 3)
    # Whoever changes its user without running a program anew is hidden from its own /proc.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    os.environ.clear()
    os.environ.update(environ, OAR_LXC_SECRET="seen")  # what the contract looks for inside
    while True:
        call, fds, _, _ = socket.recv_fds(theirs, LONGEST, 3)
        if not call:
            return
        directory, method, arguments = pickle.loads(call)
        answer: tuple[Any, Any]
        try:
            if method == "wait":
                answer = os.waitpid(arguments[0], 0)[1], None
            else:
                answer = (
                    getattr(LxcRuntime(Path(directory), "node1"), method)(*arguments, *fds),
                    None,
                )
        except ContainerError as error:
            answer = None, (error.container, error.node, error.reason, error.log)
        except Exception as error:
            answer = None, error
        finally:
            for fd in fds:
                os.close(fd)
        theirs.send(pickle.dumps(answer))
