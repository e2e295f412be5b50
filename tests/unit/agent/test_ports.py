"""Ports of a node that lead into containers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from oar_lxc.agent.forward import Forward
from oar_lxc.agent.ports import close_ports, open_ports
from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.spec import Port
from tests.unit.fakes.programs import wait_until


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def container(listen: int, port: int) -> PlannedContainer:
    ports = (Port(listen, port),)
    return PlannedContainer("vm1", "node1", "127.0.0.1/8", "debian-12", ports=ports)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[JobLayout]:
    made = JobLayout(42, tmp_path)
    made.private.mkdir(parents=True)
    yield made
    close_ports(made, None)


def refused(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_bytes_go_both_ways_and_ends_are_passed_on(layout: JobLayout) -> None:
    listen = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            peer, _ = server.accept()
            with peer:
                data = b""
                while part := peer.recv(65536):
                    data += part
                peer.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        open_ports(layout, "s1", [container(listen, server.getsockname()[1])])
        sent = os.urandom(300_000)
        with socket.create_connection(("127.0.0.1", listen), timeout=10) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            got = b""
            while part := client.recv(65536):
                got += part
        thread.join()
    assert got == sent


def test_a_session_closes_its_own_ports_only(layout: JobLayout) -> None:
    ports = [free_port(), free_port()]
    open_ports(layout, "a", [container(ports[0], 9)])
    open_ports(layout, "b", [container(ports[1], 9)])
    close_ports(layout, "a")
    assert wait_until(lambda: refused(ports[0]))
    assert not refused(ports[1])
    close_ports(layout, None)
    assert wait_until(lambda: refused(ports[1]))
    assert list(layout.private.iterdir()) == []


def test_a_port_that_is_taken_is_one_sentence(layout: JobLayout) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OarLxcError, match=f"port {port} of this node: Address already in use"):
            open_ports(layout, "s1", [container(port, 9)])
    assert list(layout.private.iterdir()) == []


def test_what_is_no_forward_is_refused() -> None:
    assert Forward.parse("8080:10.0.0.1:80") == Forward(8080, "10.0.0.1", 80)
    with pytest.raises(UsageError, match="'x' is not LISTEN:ADDRESS:PORT"):
        Forward.parse("x")
