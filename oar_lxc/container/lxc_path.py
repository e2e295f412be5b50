"""The paths and the sockets by which LXC knows a container."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from oar_lxc.model.layout import PATH_LINK

_LONGEST_ADDRESS = 106  # bytes of an abstract socket's name, without the zeros at both ends


def lxc_path(directory: Path, name: str) -> str:
    """Return the path to give to LXC as its directory of containers, for one container.

    LXC makes the name of an abstract socket from this path and the container's name, and listens
    there for commands. All users and jobs of a node share one space of such names: a user who can
    guess a name can take it first, and then the container does not start.

    So each start uses a new path that cannot be guessed: a symbolic link with a random name, which
    leads to the directory of all containers. It is in the container's own directory, which other
    users cannot read.

    Source: ``lxc_make_abstract_socket_name`` of LXC.
    """
    try:
        return f"{directory}/{name}/{os.readlink(directory / name / PATH_LINK)}"
    except OSError:  # the container was never started
        return str(directory)


def command_socket(path: str, name: str) -> bytes:
    """Return the socket address where LXC listens for commands to a container, as LXC makes it."""
    address = f"{path}/{name}/command"
    if len(os.fsencode(address)) >= _LONGEST_ADDRESS:
        number = 0xCBF29CE484222325  # FNV-1a of 64 bits
        for byte in os.fsencode(f"{path}/{name}"):
            number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        address = f"lxc/{number:016x}/command"
    return b"\0" + os.fsencode(address)


def renew_lxc_path(directory: Path, name: str) -> str:
    """Make a new path for the next start of a container; see :func:`lxc_path`."""
    own = directory / name
    with suppress(OSError):  # if the container's directory is gone, LXC reports it
        before = own / Path(lxc_path(directory, name)).name
        after, link = os.urandom(8).hex(), own / f".{PATH_LINK}"
        (own / after).symlink_to("..")
        link.unlink(missing_ok=True)
        link.symlink_to(after)
        link.replace(own / PATH_LINK)
        if before.is_symlink():
            before.unlink()
    return lxc_path(directory, name)
