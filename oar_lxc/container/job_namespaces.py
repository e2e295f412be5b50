"""Enter the namespaces that root has made for the job: one of users, and one of networks.

The job's user owns both. Who has entered the user namespace has all capabilities over what belongs
to it: the network namespace, the containers' namespaces, and files whose owner and group are among
its ids. So LXC starts containers in it as root, and needs no set-user-id program.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from oar_lxc.errors import OarLxcError
from oar_lxc.linux import mounting
from oar_lxc.linux.setns import (
    NEW_MOUNTS,
    NEW_NETWORK,
    NEW_USER,
    enter,
    in_user_namespace,
    unshare,
)
from oar_lxc.linux.thread_ids import own_proc_files, take_ids
from oar_lxc.model.layout import JobLayout

SYS = Path("/sys")
CGROUPS = SYS / "fs/cgroup"

T = TypeVar("T")


@dataclass(frozen=True)
class JobNamespaces:
    """The namespaces of a job on this node.

    Args:
        layout: the job's names.
    """

    layout: JobLayout

    def enter(self) -> None:
        """Enter the user namespace with this whole process, and keep the user's own ids.

        Raises:
            OarLxcError: the kernel refused; a process with several threads may not.
        """
        try:
            if not in_user_namespace(self.layout.user_namespace):
                enter(self.layout.user_namespace, NEW_USER)
        except OSError as error:
            raise OarLxcError(f"cannot enter the job's namespaces: {error.strerror}") from error

    def become_root(self) -> None:
        """Become the containers' root; for a process that then runs a program.

        Raises:
            OSError: the kernel refused.
        """
        self.enter()
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    def enter_network(self) -> None:
        """Enter the network namespace with this thread.

        Raises:
            OSError: the kernel refused; this process must be in the user namespace.
        """
        enter(self.layout.network_namespace, NEW_NETWORK)

    def become_network_root(self) -> None:
        """Become root, in the network namespace; for a process that then runs a program.

        Raises:
            OSError: the kernel refused.
        """
        self.become_root()
        self.enter_network()

    def become_lxc(self) -> None:
        """Become what LXC needs to be: root, where ``/sys`` shows the job's network devices.

        LXC looks there for bridges.

        Raises:
            OSError: the kernel refused.
        """
        self.become_network_root()
        unshare(NEW_MOUNTS)
        cgroups = mounting.Copy(CGROUPS)
        _mount_sys()
        cgroups.mount(CGROUPS)


def _mount_sys() -> None:
    flags = mounting.NOSUID | mounting.NODEV | mounting.NOEXEC
    try:
        mounting.mount_fresh("sysfs", SYS, flags)
    except PermissionError:  # the node's own is read-only
        mounting.mount_fresh("sysfs", SYS, flags | mounting.READ_ONLY)


class NetworkThread:
    """A thread that is root in the job's network namespace, and calls functions for the others.

    LXC's monitors listen on sockets of that namespace, and obey only their own user. The process's
    other threads remain the user, also for file servers, and stay in the node's network.

    Args:
        namespaces: the job's.
        unified: whether the job's cgroups are of version 2.
    """

    def __init__(self, namespaces: JobNamespaces, unified: bool = False) -> None:
        self._namespaces = namespaces
        self._unified = unified
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]]
        self._thread: threading.Thread | None = None

    def call(self, act: Callable[[], T]) -> T:
        """Call a function in the thread, and return what it returns, or raise what it raises."""
        if self._thread is None:
            self._calls = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._calls.put((act, answer))
        result, error = answer.get()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # no error, so it is a T

    def _run(self) -> None:
        entered = False
        while True:
            act, answer = self._calls.get()
            try:
                if not entered:
                    self._namespaces.enter_network()
                    take_ids(0, 0)
                    if self._unified:
                        # To enter a container's cgroup of version 2, LXC maps ids of a child.
                        own_proc_files()
                    entered = True
                answer.put((act(), None))
            except BaseException as error:
                answer.put((None, error))
