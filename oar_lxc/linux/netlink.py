"""Talk with the kernel by netlink(7), without Python's module socket, whose import takes long."""

from __future__ import annotations

import ctypes
import os
import select

_NETLINK, _RAW, _CLOEXEC = 16, 3, 0o2000000  # AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class NetlinkSocket:
    """A socket to the kernel; a context manager, which closes it.

    Args:
        protocol: one of linux/netlink.h.

    Raises:
        OSError: the kernel refuses it.
    """

    def __init__(self, protocol: int) -> None:
        self._fd = int(_libc.socket(_NETLINK, _RAW | _CLOEXEC, protocol))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "netlink")

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def send(self, data: bytes) -> None:
        """Send messages, which the kernel carries out before this returns."""
        os.write(self._fd, data)

    def receive(self, most: int, timeout: float | None = None) -> bytes:
        """Return the kernel's next messages.

        Args:
            most: bytes of them; the rest is lost.
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: there was none in time.
        """
        answer = select.poll()  # select(2) knows no descriptor above 1023
        answer.register(self._fd, select.POLLIN)
        if not answer.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError
        return os.read(self._fd, most)
