"""The socket on which LXC's monitor of a container listens for commands."""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST_ADDRESS = 106  # bytes of an abstract socket's name, without the zeros at both ends


def command_socket(directory: Path, name: str) -> bytes:
    """Return the address where LXC listens for commands to a container, as LXC makes it.

    It is an abstract name, which only processes in the same network namespace see.

    Args:
        directory: LXC's directory of containers.
        name: the container.

    Source: ``lxc_make_abstract_socket_name`` of LXC.
    """
    address = f"{directory}/{name}/command"
    if len(os.fsencode(address)) >= _LONGEST_ADDRESS:
        number = 0xCBF29CE484222325  # FNV-1a of 64 bits
        for byte in os.fsencode(f"{directory}/{name}"):
            number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        address = f"lxc/{number:016x}/command"
    return b"\0" + os.fsencode(address)
