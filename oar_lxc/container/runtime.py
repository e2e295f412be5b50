"""What the agent needs of containers: an interface, so that tests need no LXC.

:class:`~oar_lxc.container.lxc_runtime.LxcRuntime` implements it, and all calls to LXC go through
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from oar_lxc.errors import ContainerError

KILL_TIMEOUT = 10.0  # seconds after SIGKILL until a container that still runs is reported


@dataclass(frozen=True)
class StartedContainer:
    """A container that runs.

    Attributes:
        name: its name.
        init_pid: the process id of its init on the node.
        seconds: from the call of LXC until the container is RUNNING.
    """

    name: str
    init_pid: int
    seconds: float


class Starter(Protocol):
    """A process that starts containers, several at a time, while the caller does other work."""

    def send(self, names: Sequence[str]) -> None:
        """Let containers be started, and do not wait for them."""

    def finished(self) -> Iterator[StartedContainer | ContainerError]:
        """Yield the outcomes since the last call; do not wait for more."""

    def rest(self) -> Iterator[StartedContainer | ContainerError]:
        """Yield the outcomes of all other containers that were sent; accept no more containers."""

    def close(self) -> None:
        """Start no more containers, and wait for the starts under way."""


class Runtime(Protocol):
    """The operations on the containers of one directory.

    Each container has a subdirectory of its name with a file ``config``.
    """

    def make_network(self) -> None:
        """Make the devices that join containers to the job's network, unless they are there.

        Raises CommandError if the kernel refuses one.
        """

    def in_network(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program as root in the job's network namespace; return what it wrote.

        It reads ``text``. Raises CommandError if it fails.
        """

    def names(self) -> list[str]:
        """Return the names of all containers, sorted; raise OSError if they cannot be read."""

    def state(self, name: str) -> str:
        """Return LXC's word for a container's state: RUNNING, STOPPED, FROZEN …"""

    def init_pid(self, name: str) -> int:
        """Return the process id of a container's init; -1 if the container does not run."""

    def start(self, name: str) -> StartedContainer:
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
        is 127 or 126, and ``stderr`` gets one sentence; see
        :func:`oar_lxc.container.command.become_command`.
        """
