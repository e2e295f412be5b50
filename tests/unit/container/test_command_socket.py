"""The address where LXC listens for commands to a container."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.container.command_socket import command_socket


def test_a_socket_has_the_name_that_lxc_gives_it() -> None:
    """As lxc_make_abstract_socket_name does; a long name is a hash (FNV-1a)."""
    assert command_socket(Path("/p"), "vm1") == b"\0/p/vm1/command"
    long = command_socket(Path("/" + "p" * 100), "vm1")
    assert long.startswith(b"\0lxc/")
    assert long.endswith(b"/command")
    assert len(long) == 1 + len("lxc//command") + 16
