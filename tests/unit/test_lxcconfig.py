"""The lines of a container's configuration."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.layout import JobLayout
from oar_lxc.lxcconfig import Bind, Limits, limit_files, render
from oar_lxc.plan import PlannedContainer
from oar_lxc.published import READY, PublishedJob

PUBLISHED = PublishedJob(
    42, "alice", "node1", ("node1",), READY, first_id=7000, id_count=65536, uid=9, gid=9
)
VM = PlannedContainer("vm1", "node1", "10.0.0.2/21", "image")


NONE = Limits()


def lines(limits: Limits = NONE, *binds: Bind, lxcfs: bool = False) -> list[str]:
    text = render(JobLayout(42), PUBLISHED, VM, Path("/i"), Path("/l"), limits, binds, lxcfs=lxcfs)
    return text.splitlines()


def starting(prefix: str, found: list[str]) -> list[str]:
    return [line.removeprefix(prefix) for line in found if line.startswith(prefix)]


def test_a_containers_cgroup_is_inside_the_one_that_carries_its_limits() -> None:
    assert "lxc.cgroup.dir.container = vm1/lxc.payload" in lines()


def test_without_limits_there_are_none() -> None:
    assert list(limit_files(NONE)) == []


def test_each_limit_has_its_file() -> None:
    limits = Limits("0,4", 0, 1 << 29, swap=True, processes=100)
    assert list(limit_files(limits)) == [
        ("cpuset.cpus", "0,4"),
        ("memory.limit_in_bytes", "536870912"),
        ("memory.memsw.limit_in_bytes", "536870912"),
        ("pids.max", "100"),
    ]
    quota = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "200000")]
    assert list(limit_files(Limits(quota=2))) == quota
    # lxcfs looks for it where the processes are.
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
