"""Who holds a job's subnet, as ip(8) tells."""

from __future__ import annotations

import json
import os
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from oar_lxc.errors import CommandError, OarLxcError
from oar_lxc.model.addresses import JobNetwork
from oar_lxc.model.layout import JobLayout
from oar_lxc.root import bridge
from tests.unit.fakes.programs import add_program

NETWORK = JobNetwork.of(42, ["node1"])  # 100.65.80.0/21


ROUTES = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 100.65.80.0/31 1 0 0
        |-- 100.65.80.0
           /21 link UNICAST
        |-- {}
           /32 link UNICAST
           /32 host LOCAL
     +-- 127.0.0.0/31 1 0 0
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
"""


def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, str]) -> None:
    monkeypatch.setattr(bridge, "ADDRESSES", tmp_path / "none")  # so ip is asked
    listing = [
        {"ifname": name, "addr_info": [{"local": address, "prefixlen": 24}]}
        for name, address in addresses
    ]
    (tmp_path / "listing").write_text(json.dumps([{"ifname": "down0"}, *listing]))
    add_program(tmp_path / "bin", "ip", f"cat {tmp_path}/listing")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def test_a_subnet_that_nobody_has_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip(
        tmp_path,
        monkeypatch,
        ("lo", "127.0.0.1"),
        ("olb43", "100.65.88.1"),
        ("x", "100.65.79.255"),
    )
    assert bridge.holder_of_subnet(NETWORK, 10) == ""


@pytest.mark.parametrize("address", ["100.65.80.1", "100.65.80.0", "100.65.87.255"])
def test_the_device_with_an_address_in_the_subnet_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    ip(tmp_path, monkeypatch, ("lo", "127.0.0.1"), ("eth9", address))
    assert bridge.holder_of_subnet(NETWORK, 10) == "eth9"


@pytest.mark.parametrize(("address", "holder"), [("100.65.80.1", "eth9"), ("100.65.79.255", "")])
def test_ip_is_asked_only_where_the_machine_has_an_address_in_the_subnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, holder: str
) -> None:
    ip(tmp_path, monkeypatch, ("eth9", "100.65.80.1"))
    (tmp_path / "routes").write_text(ROUTES.format(address))
    monkeypatch.setattr(bridge, "ADDRESSES", tmp_path / "routes")
    assert bridge.holder_of_subnet(NETWORK, 10) == holder


def test_the_kernel_lists_the_addresses_of_this_machine() -> None:
    assert IPv4Address("127.0.0.1") in bridge.own_addresses()


def test_a_machine_without_addresses_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip(tmp_path, monkeypatch)
    (tmp_path / "listing").write_text("")
    assert bridge.holder_of_subnet(NETWORK, 10) == ""


def test_an_ip_that_fails_is_an_error_and_not_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip(tmp_path, monkeypatch)
    add_program(tmp_path / "bin", "ip", "echo Cannot open netlink socket >&2; exit 1")
    with pytest.raises(CommandError, match="Cannot open netlink socket"):
        bridge.holder_of_subnet(NETWORK, 10)


def test_a_node_whose_address_is_unknown_is_one_sentence_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip(tmp_path, monkeypatch)

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    network = JobNetwork.of(42, ["node1", "node2"])
    with pytest.raises(OarLxcError, match="address of node node2 is not known") as caught:
        bridge.create(JobLayout(42), network, "node1", 10)
    assert "DNS or /etc/hosts" in str(caught.value)
    assert "\n" not in str(caught.value)
