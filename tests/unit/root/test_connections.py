"""How a job's connections are found in the kernel's table, and removed."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from oar_lxc.errors import OarLxcError, TooLateError
from oar_lxc.linux.deadline import NEVER, Deadline
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import connections

SUBNET = IPv4Network("100.64.8.0/21")
GET, DELETE = 0x101, 0x102


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content


def tuple_of(source: str, target: str) -> bytes:
    """Return the tuple of a connection as ctnetlink tells it."""
    ends = attribute(1, IPv4Address(source).packed) + attribute(2, IPv4Address(target).packed)
    protocol = attribute(0x8002, b"\x05\0\x01\0\x06\0\0\0")
    return attribute(0x8001, attribute(0x8001, ends) + protocol)


def message(kind: int, number: int, content: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(content), kind, 2, number, 0) + content


class Kernel:
    """A kernel with a table of connections, as a socket sees it.

    Args:
        table: the tuples.
        stays: whether what is removed comes back.
    """

    def __init__(self, table: list[bytes], stays: bool = False) -> None:
        self.table, self.stays = table, stays
        self.answers: list[bytes] = []

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def send(self, data: bytes) -> None:
        while data:
            length, kind, _, number, _ = struct.unpack_from("=IHHII", data)
            content, data = data[20:length], data[length:]
            if kind == GET:
                told = [message(0x100, number, b"\2\0\0\0" + x + b"rest") for x in self.table]
                self.answers += [b"".join(told), message(3, number, bytes(4))]
            elif content in self.table and not self.stays:
                self.table.remove(content)
            else:
                self.answers.append(message(2, number, struct.pack("=i", -2) + bytes(16)))

    def receive(self, most: int, timeout: float) -> bytes:
        return self.answers.pop(0)


@pytest.fixture
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    count = tmp_path / "count"
    count.write_text("5\n")

    def act(kernel: Kernel, deadline: Deadline = NEVER) -> None:
        monkeypatch.setattr(connections, "NetlinkSocket", lambda protocol: kernel)
        connections.forget(SUBNET, deadline, count)

    return act


def test_connections_from_and_to_the_subnet_are_removed_and_no_others(
    forget: Callable[..., None],
) -> None:
    ours = [tuple_of("100.64.8.0", "10.0.0.1"), tuple_of("10.0.0.2", "100.64.15.255")] * 300
    others = [tuple_of("100.64.7.255", "10.0.0.1"), tuple_of("10.0.0.2", "100.64.16.0")]
    kernel = Kernel([*ours, *others])
    forget(kernel)
    assert kernel.table == others


def test_connections_that_come_back_are_told(forget: Callable[..., None]) -> None:
    with pytest.raises(OarLxcError, match="come back"):
        forget(Kernel([tuple_of("100.64.8.1", "10.0.0.1")], stays=True))


def test_a_refusal_of_the_kernel_is_told(forget: Callable[..., None]) -> None:
    kernel = Kernel([])
    kernel.answers = [message(2, GET, struct.pack("=i", -1) + bytes(16))]
    with pytest.raises(PermissionError, match="table of connections"):
        forget(kernel)


def test_a_table_that_is_too_long_ends_by_the_deadline(forget: Callable[..., None]) -> None:
    with pytest.raises(TooLateError):
        forget(Kernel([]), Deadline.after(0))


def test_where_none_are_tracked_the_kernel_is_not_asked(tmp_path: Path) -> None:
    connections.forget(SUBNET, NEVER, tmp_path / "none")


ROUTES = """\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
olb421\t00604164\t00000000\t0001\t0\t0\t0\t00F8FFFF\t0\t0\t0
olb42\t{}\t00000000\t0001\t0\t0\t0\t00F8FFFF\t0\t0\t0
"""


def test_the_subnet_of_a_job_is_that_of_its_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a file that the kernel lets read while it is busy with devices, in its own byte order."""
    network = int.from_bytes(bytes([100, 65, 80, 0]), sys.byteorder)
    (tmp_path / "route").write_text(ROUTES.replace("{}", f"{network:08X}"))
    monkeypatch.setattr(connections, "ROUTES", tmp_path / "route")
    assert connections.subnet_of(JobLayout(42), 1) == IPv4Network("100.65.80.0/21")
