"""The lines of a container's configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from oar_lxc.container.limits import Limits
from oar_lxc.container.lxc_config import (
    Bind,
    NodeSettings,
    config_text,
    neighbours_text,
)
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.model.addresses import hardware_address
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.layout import JobLayout
from oar_lxc.model.names import Peer
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import READY, PublishedJob

PUBLISHED = PublishedJob(
    42, "alice", "node1", ("node1",), READY, first_id=7000, id_count=65536, uid=9, gid=9
)
VM = PlannedContainer("vm1", "node1", "10.0.0.2/21", "image", "vm")
LAUNCH = NodeLaunch(JobLayout(42), PUBLISHED, "s", {"image": Path("/i")}, {}, {}, {})


NONE = Limits()


def lines(limits: Limits = NONE, *binds: Bind, lxcfs: bool = False) -> list[str]:
    return config_text(LAUNCH, VM, NodeSettings(limits, binds, lxcfs=lxcfs)).splitlines()


def starting(prefix: str, found: list[str]) -> list[str]:
    return [line.removeprefix(prefix) for line in found if line.startswith(prefix)]


def test_a_containers_cgroup_is_inside_the_one_that_carries_its_limits() -> None:
    assert "lxc.cgroup.dir.container = vm1/lxc.payload" in lines()


def test_lxcfs_finds_the_quota_where_the_processes_are() -> None:
    assert starting("lxc.cgroup.cpu.", lines(Limits(quota=2))) == [
        "cfs_period_us = 100000",
        "cfs_quota_us = 200000",
    ]


def test_a_bind_is_one_line_whatever_its_name() -> None:
    bind = Bind(Path("/home/a b/#1\nlxc.hook.start = x"), Path("/srv/d"), False)
    assert starting("lxc.mount.entry = ", lines(NONE, bind)) == [
        r"/home/a\040b/\0431\012lxc.hook.start\040=\040x srv/d none bind,ro,create=dir 0 0"
    ]
    writable = Bind(Path("/s"), Path("/t"), True, directory=False)
    assert starting("lxc.mount.entry = ", lines(NONE, writable)) == [
        "/s t none bind,create=file 0 0"
    ]


def test_what_lxcfs_tells_is_no_condition_for_a_start() -> None:
    entries = starting("lxc.mount.entry = ", lines(lxcfs=True))
    assert "/var/lib/lxcfs/proc/meminfo proc/meminfo none bind,optional 0 0" in entries
    assert all("optional" in entry for entry in entries)
    assert starting("lxc.mount.entry", lines()) == []


def test_the_user_is_herself_inside() -> None:
    assert "lxc.idmap = u 9 9 1" in lines()


MAIN = Interface("main", "eth0", "100.64.0.1/21", "02:6c:64:40:00:01")
LEFT = Interface("left", "eth1", "10.1.0.1/16", "02:6d:0a:01:00:01", "fd00::a01:1/64", number=1)


def test_neighbours_have_the_addresses_that_containers_are_given() -> None:
    peers = {f"vm{i}": Peer(f"100.64.0.{i}", "k") for i in range(1, 50)}
    text = neighbours_text(peers, [MAIN], 49)
    assert len(text.splitlines()) == 49
    assert ("neigh replace 100.64.0.48 lladdr 02:6c:64:40:00:30 nud permanent dev eth0\n") in text
    assert hardware_address("100.64.0.48") == "02:6c:64:40:00:30"


def test_neighbours_are_those_of_each_network() -> None:
    peers = {
        "p1": Peer("", "k", {"left": ("10.1.0.1", "fd00::a01:1")}),
        "vm1": Peer("100.64.0.1", "k"),
    }
    assert neighbours_text(peers, [MAIN, LEFT], 64).splitlines() == [
        "neigh replace 100.64.0.1 lladdr 02:6c:64:40:00:01 nud permanent dev eth0",
        "neigh replace 10.1.0.1 lladdr 02:6d:0a:01:00:01 nud permanent dev eth1",
        "neigh replace fd00::a01:1 lladdr 02:6d:0a:01:00:01 nud permanent dev eth1",
    ]


@pytest.mark.parametrize(
    ("here", "all_of_them", "told"),
    [(1, 1, 0), (7, 7, 0), (8, 8, 8), (256, 256, 256), (257, 257, 0), (32, 2000, 2000)],
)
def test_too_few_and_too_many_pairs_are_no_neighbours(
    here: int, all_of_them: int, told: int
) -> None:
    peers = {f"vm{i}": Peer(f"100.64.{i // 200}.{i % 200 + 1}", "k") for i in range(all_of_them)}
    assert len(neighbours_text(peers, [MAIN], here).splitlines()) == told


def test_each_interface_has_its_network_names_and_addresses() -> None:
    vm = replace(VM, interfaces=(LEFT,), forward=True, emulated=True)
    told = config_text(LAUNCH, vm, NodeSettings(NONE)).splitlines()
    assert starting("lxc.net.1.", told) == [
        "type = veth",
        "link = n1",
        "name = eth1",
        "veth.pair = v1-0a000002",
        "flags = up",
        "mtu = 1400",
        "hwaddr = 02:6d:0a:01:00:01",
        "ipv4.address = 10.1.0.1/16 10.1.255.255",
        "ipv6.address = fd00::a01:1/64",
        f"script.up = /bin/sh {LAUNCH.directory(VM)}/links.1",
    ]
    assert starting("lxc.sysctl.", told) == [
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
    ]
    assert "lxc.net.0.veth.pair = v0-0a000002" in told


def test_without_the_main_network_there_is_no_eth0_and_the_gateway_is_a_container() -> None:
    vm = replace(VM, main=False, interfaces=(LEFT,), gateway="10.1.0.9")
    told = config_text(LAUNCH, vm, NodeSettings(NONE)).splitlines()
    assert starting("lxc.net.0.", told) == []
    assert "lxc.net.1.ipv4.gateway = 10.1.0.9" in told
    assert "lxc.sysctl.net.ipv4.ip_forward = 0" in told
    alone = config_text(LAUNCH, replace(vm, gateway=""), NodeSettings(NONE))
    assert "gateway" not in alone


def test_neighbours_are_told_by_a_hook_that_no_container_starts_without() -> None:
    told = config_text(LAUNCH, VM, NodeSettings(NONE, neighbours=True)).splitlines()
    (hook,) = starting("lxc.hook.mount = ", told)
    assert hook.endswith(f"ip -force -batch {LAUNCH.layers}/.neighbours.vm || :")
    assert starting("lxc.hook.mount", lines()) == []
