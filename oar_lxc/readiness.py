"""Wait for the sshd of containers to answer."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

SSH_PORT = 22
_RETRY = 0.02  # seconds between two tries of one container
_TRY = 1.0  # seconds that one connection may take


def wait_ssh(addresses: Mapping[str, str], timeout: float) -> Iterator[str]:
    """Yield the name of each container when its sshd has sent its greeting.

    Args:
        addresses: IPv4 address by name.
        timeout: seconds for all together; those that are not yielded by then did not answer.
    """
    end = time.monotonic() + timeout
    due = dict.fromkeys(addresses, 0.0)  # when each is tried next
    open_since: dict[str, float] = {}
    sockets: dict[str, socket.socket] = {}
    with selectors.DefaultSelector() as selector:

        def drop(name: str, again: bool) -> None:
            with suppress(KeyError):
                selector.unregister(sockets[name])
            sockets.pop(name).close()
            if again:
                due[name] = time.monotonic() + _RETRY

        try:
            while (due or sockets) and time.monotonic() < end:
                now = time.monotonic()
                for name in [name for name, when in due.items() if when <= now]:
                    del due[name]
                    sockets[name] = _connect(addresses[name])
                    open_since[name] = now
                    selector.register(sockets[name], selectors.EVENT_READ, name)
                for name in [n for n in sockets if now - open_since[n] > _TRY]:
                    drop(name, again=True)
                for key, _ in selector.select(_RETRY):
                    name = key.data
                    answered = _greeting(sockets[name])
                    if answered is None:
                        continue
                    drop(name, again=not answered)
                    if answered:
                        yield name
        finally:
            for open_socket in sockets.values():
                open_socket.close()


def _connect(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.connect_ex((address, SSH_PORT))
    return made


def _greeting(connection: socket.socket) -> bool | None:
    """Whether sshd answered; None where that is still open."""
    try:
        return connection.recv(4) == b"SSH-"
    except OSError as error:
        return None if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else False
