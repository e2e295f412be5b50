"""Waiting for sshd, with servers of our own on loopback addresses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from oar_lxc.container import ssh_probe
from oar_lxc.container.ssh_probe import wait_ssh
from oar_lxc.errors import OarLxcError

Serve = Callable[[str, Callable[[socket.socket], None]], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a function that serves an address: it is given each connection that comes."""
    stack = ExitStack()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    monkeypatch.setattr(ssh_probe, "SSH_PORT", port)

    def start(address: str, answer: Callable[[socket.socket], None]) -> None:
        server = stack.enter_context(socket.create_server((address, port)))
        server.settimeout(0.02)
        stop = threading.Event()

        def loop() -> None:
            while not stop.is_set():
                with suppress(TimeoutError, ConnectionError):
                    connection, _ = server.accept()
                    connection.settimeout(2)
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=loop)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)

    yield start
    stack.close()


def greet(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-test\r\n")


def test_those_that_answer_are_yielded_and_no_others(serve: Serve) -> None:
    serve("127.0.0.2", greet)
    serve("127.0.0.3", greet)
    addresses = {"vm1": "127.0.0.2", "vm2": "127.0.0.3", "vm3": "127.0.0.4"}
    assert sorted(wait_ssh(addresses, 1.0)) == ["vm1", "vm2"]


def test_it_ends_as_soon_as_all_have_answered(serve: Serve) -> None:
    serve("127.0.0.2", greet)
    begin = time.monotonic()
    assert list(wait_ssh({"vm1": "127.0.0.2"}, 30)) == ["vm1"]
    assert time.monotonic() - begin < 5


def test_one_that_starts_later_is_tried_again(serve: Serve) -> None:
    later = threading.Timer(0.2, serve, ("127.0.0.2", greet))
    later.start()
    assert list(wait_ssh({"vm1": "127.0.0.2"}, 5)) == ["vm1"]
    later.join()


def test_another_service_is_no_sshd(serve: Serve) -> None:
    serve("127.0.0.2", lambda connection: connection.sendall(b"HTTP/1.1 400\r\n"))
    assert list(wait_ssh({"vm1": "127.0.0.2"}, 0.2)) == []


def test_one_that_hangs_up_is_tried_again(serve: Serve) -> None:
    tries: list[int] = []

    def third_time(connection: socket.socket) -> None:
        tries.append(1)
        if len(tries) >= 3:
            greet(connection)

    serve("127.0.0.2", third_time)
    assert list(wait_ssh({"vm1": "127.0.0.2"}, 5)) == ["vm1"]


def test_a_silent_one_does_not_hold_up_the_others(serve: Serve) -> None:
    release = threading.Event()

    def wait(connection: socket.socket) -> None:
        release.wait(5)

    serve("127.0.0.2", wait)
    serve("127.0.0.3", greet)
    begin = time.monotonic()
    found = wait_ssh({"vm1": "127.0.0.2", "vm2": "127.0.0.3"}, 5)
    assert next(found) == "vm2"
    assert time.monotonic() - begin < 0.8
    found.close()  # type: ignore[attr-defined]
    release.set()


def test_no_time_means_no_answer() -> None:
    assert list(wait_ssh({"vm1": "127.0.0.2"}, 0)) == []


def test_nobody_to_wait_for_is_over_at_once() -> None:
    assert list(wait_ssh({}, 30)) == []


def test_nobody_waits_for_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_probe, "_LOOK", 0.02)
    begin = time.monotonic()
    assert list(wait_ssh({"vm1": "127.0.0.9"}, 30, lambda name: False)) == []
    assert time.monotonic() - begin < 10


def test_one_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_probe, "_LOOK", 0.0)
    states = iter([False, True, False, True, False, False])
    ended = ssh_probe.EndedContainers(lambda name: next(states))
    found = [ended.among(["vm1"]) for _ in range(6)]
    assert found == [set()] * 5 + [{"vm1"}]


def test_a_wait_that_nobody_waits_for_ends() -> None:
    begin = time.monotonic()
    with pytest.raises(OarLxcError, match="whoever waits for the containers is gone"):
        list(wait_ssh({"vm1": "127.0.0.9"}, 30, abandoned=lambda: True))
    assert time.monotonic() - begin < 10
