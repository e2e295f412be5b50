"""The look at a machine's network."""

from __future__ import annotations

import signal
import socket

import pytest

from oar_lxc.doctor import network
from oar_lxc.doctor.findings import Machine, Role
from oar_lxc.errors import TooLateError


def test_a_process_that_lets_itself_not_be_looked_at_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user can make the look at /proc/PID/fd wait for as long as they want."""

    def wait(inodes: set[str]) -> list[str]:
        signal.pause()
        return []

    table = "head\n" + " ".join(["0:", "00000000:0121", *["0"] * 7, "4711"])
    monkeypatch.setattr(network, "_lines", lambda path: table.splitlines())
    monkeypatch.setattr(network, "_holders", wait)
    monkeypatch.setattr(network, "PATIENCE", 0.2)
    with pytest.raises(TooLateError, match="looking who holds the port"):
        list(network.vxlan_port(Machine(Role.NODE, root=True, conf=None)))


def test_who_holds_the_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        monkeypatch.setattr(network, "VXLAN_PORT", holder.getsockname()[1])
        (finding,) = network.vxlan_port(Machine(Role.NODE, root=True, conf=None))
    assert finding.said.startswith("process ")
