"""The lines of a container's configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oar_lxc.container.limits import Limits
from oar_lxc.container.lxc_config import (
    Bind,
    NodeSettings,
    config_text,
)
from oar_lxc.container.node_launch import NodeLaunch
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.layout import JobLayout
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


def test_with_version_2_a_container_is_started_within_its_limits() -> None:
    launch = replace(
        LAUNCH, published=replace(PUBLISHED, cgroups=("/g",), unit="oar-lxc-42.service")
    )
    found = config_text(launch, VM, NodeSettings(Limits(quota=2))).splitlines()
    assert starting("lxc.cgroup.", found) == [
        "relative = 1",
        "dir.container = lxc.payload",
        "dir.monitor = lxc.monitor",
        "dir.monitor.pivot = lxc.pivot",
    ]
    assert starting("lxc.cgroup2.", found) == ["cpu.max = 200000 100000"]


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


def test_no_start_waits_for_a_hook() -> None:
    hooks = [line.partition(" ")[0] for line in starting("lxc.hook", lines())]
    assert hooks == [".version", ".post-stop"]


def test_the_user_is_herself_inside() -> None:
    assert "lxc.idmap = u 9 9 1" in lines()


LEFT = Interface("left", "eth1", "10.1.0.1/16", "02:6d:0a:01:00:01", "fd00::a01:1/64", number=1)


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
