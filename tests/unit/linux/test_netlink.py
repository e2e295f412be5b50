"""Messages to the kernel and back."""

from __future__ import annotations

import struct

import pytest

from oar_lxc.linux.netlink import NetlinkSocket

ROUTE, GET_LINK, NEW_LINK, REQUEST_DUMP = 0, 18, 16, 0x301


def test_the_kernel_answers_a_message() -> None:
    with NetlinkSocket(ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII B15x", 32, GET_LINK, REQUEST_DUMP, 1, 0, 0))
        _, kind = struct.unpack_from("=IH", kernel.receive(1 << 16, 10))
    assert kind == NEW_LINK


def test_an_answer_that_does_not_come_is_told() -> None:
    with NetlinkSocket(ROUTE) as kernel, pytest.raises(TimeoutError):
        kernel.receive(1 << 12, 0)


def test_a_kernel_without_the_protocol_is_an_error() -> None:
    with pytest.raises(OSError, match="netlink"):
        NetlinkSocket(63)
