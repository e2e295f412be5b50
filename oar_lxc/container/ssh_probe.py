"""Wait for the sshd of containers to answer."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from oar_lxc.errors import OarLxcError
from oar_lxc.linux.deadline import Deadline

SSH_PORT = 22
_RETRY = 0.02  # seconds between two tries of one container
_TRY = 1.0  # seconds that one connection may take
_LOOK = 1.0  # seconds between two checks whether containers still run

ABANDONED = "whoever waits for the containers is gone"
Alive = Callable[[str], bool]


class EndedContainers:
    """Finds containers that have ended, so that the caller stops waiting for them.

    Args:
        alive: tells whether a container runs.
    """

    def __init__(self, alive: Alive) -> None:
        self._alive = alive
        self._next = Deadline.after(_LOOK)
        self._suspects: set[str] = set()

    def among(self, names: Iterable[str]) -> set[str]:
        """Return the containers that did not run at two checks in a row: a reboot is shorter."""
        if not self._next.passed:
            return set()
        self._next = Deadline.after(_LOOK)
        before, self._suspects = self._suspects, {n for n in names if not self._alive(n)}
        return before & self._suspects


def wait_ssh(
    addresses: Mapping[str, str],
    timeout: float,
    alive: Alive = lambda name: True,
    abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Yield the name of each container when its sshd has sent its greeting.

    Args:
        addresses: IPv4 address by container.
        timeout: seconds for all together; a container not yielded by then did not answer.
        alive: tells whether a container runs; a container that has ended is not waited for.
        abandoned: whether the caller is gone.

    Raises:
        OarLxcError: the caller is gone.
    """
    end = Deadline.after(timeout)
    ended = EndedContainers(alive)
    due = dict.fromkeys(addresses, Deadline.after(0))  # when to try each container next
    tried: dict[str, Deadline] = {}  # until when
    sockets: dict[str, socket.socket] = {}
    with selectors.DefaultSelector() as selector:

        def drop(name: str, again: bool) -> None:
            with suppress(KeyError):
                selector.unregister(sockets[name])
            sockets.pop(name).close()
            if again:
                due[name] = Deadline.after(_RETRY)

        try:
            while (due or sockets) and not end.passed:
                for name in ended.among([*due, *sockets]):
                    due.pop(name, None)
                    if name in sockets:
                        drop(name, again=False)
                for name in [name for name, when in due.items() if when.passed]:
                    del due[name]
                    sockets[name] = _connect(addresses[name])
                    tried[name] = Deadline.after(_TRY)
                    selector.register(sockets[name], selectors.EVENT_READ, name)
                for name in [name for name in sockets if tried[name].passed]:
                    drop(name, again=True)
                for key, _ in selector.select(_RETRY):
                    name = key.data
                    answered = _greeting(sockets[name])
                    if answered is None:
                        continue
                    drop(name, again=not answered)
                    if answered:
                        yield name
                if abandoned():
                    raise OarLxcError(ABANDONED)
        finally:
            for open_socket in sockets.values():
                open_socket.close()


def _connect(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.connect_ex((address, SSH_PORT))
    return made


def _greeting(connection: socket.socket) -> bool | None:
    """Whether sshd answered; None if it has not yet and still may."""
    try:
        return connection.recv(4) == b"SSH-"
    except OSError as error:
        return None if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else False
