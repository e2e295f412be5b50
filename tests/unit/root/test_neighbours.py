"""Room in the kernel's table of neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.root import main, neighbours, packetfilter
from oar_lxc.setup import network

KERNELS = {"gc_thresh1": 128, "gc_thresh2": 512, "gc_thresh3": 1024}


def limits(place: Path, values: dict[str, int]) -> Path:
    for name, value in values.items():
        (place / name).write_text(f"{value}\n")
    return place


def read(place: Path) -> dict[str, int]:
    return {path.name: int(path.read_text()) for path in place.iterdir()}


def test_the_kernels_own_limits_are_raised(tmp_path: Path) -> None:
    place = limits(tmp_path, KERNELS)
    assert neighbours.too_low(place) == neighbours.WANTED
    neighbours.make_room(place)
    assert read(place) == neighbours.WANTED
    assert neighbours.too_low(place) == {}


def test_a_higher_limit_stays(tmp_path: Path) -> None:
    place = limits(tmp_path, {**KERNELS, "gc_thresh3": 1 << 20})
    neighbours.make_room(place)
    assert read(place) == {**neighbours.WANTED, "gc_thresh3": 1 << 20}


def test_a_node_that_does_not_see_the_limits_does_without(tmp_path: Path) -> None:
    neighbours.make_room(tmp_path)
    assert neighbours.too_low(tmp_path) == {}
    assert read(tmp_path) == {}


def test_what_only_the_host_can_do_is_told_where_the_limits_are_not_seen(tmp_path: Path) -> None:
    (note,) = network.notes(tmp_path)
    for name, value in neighbours.WANTED.items():
        assert f"net.ipv4.neigh.default.{name}={value}" in note
    assert network.notes(limits(tmp_path, KERNELS)) == []


def test_they_are_raised_with_the_packet_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = limits(tmp_path, KERNELS)
    monkeypatch.setattr(packetfilter, "load", lambda pool, timeout: None)
    monkeypatch.setattr(neighbours.make_room, "__defaults__", (place,))
    assert main._filter(main.parser().parse_args(["filter"])) == main.DONE
    assert read(place) == neighbours.WANTED
