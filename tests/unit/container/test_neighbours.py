"""What containers are told of their neighbours."""

from __future__ import annotations

import pytest

from oar_lxc.container.neighbours import Neighbour, are_told, neighbours_of
from oar_lxc.model.addresses import hardware_address
from oar_lxc.model.description import Device
from oar_lxc.model.names import Peer


def test_a_hardware_address_follows_from_the_address() -> None:
    assert hardware_address("100.64.0.48") == "02:6c:64:40:00:30"


def test_neighbours_are_those_of_each_network() -> None:
    peers = {
        "p1": Peer("", "k", {"left": ("10.1.0.1", "fd00::a01:1")}),
        "vm1": Peer("100.64.0.1", "k"),
    }
    devices = {"main": Device("eth0", 0), "left": Device("eth1", 1)}
    assert neighbours_of(peers, devices) == [
        Neighbour("eth0", bytes([100, 64, 0, 1]), bytes.fromhex("026c64400001")),
        Neighbour("eth1", bytes([10, 1, 0, 1]), bytes.fromhex("026d0a010001")),
    ]


@pytest.mark.parametrize(
    ("here", "all_of_them", "told"),
    [
        (1, 1, False),
        (7, 7, False),
        (8, 8, True),
        (256, 256, True),
        (257, 257, False),
        (32, 2000, True),
    ],
)
def test_too_few_and_too_many_pairs_are_not_told(here: int, all_of_them: int, told: bool) -> None:
    assert are_told(here * all_of_them) == told
