"""What the user side does to the delegated cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.container.limit_cgroups import (
    make_limit_cgroups,
    remove_limit_cgroups,
    thaw_limit_cgroups,
)
from oar_lxc.container.limits import Limits
from oar_lxc.errors import OarLxcError


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Return two delegated cgroups; in one, a container's has files already, as in a real one."""
    for name in ("memory", "cpuset"):
        (tmp_path / name / "vm1/lxc.payload").mkdir(parents=True)
    for name in ("memory.limit_in_bytes", "pids.max"):
        (tmp_path / "memory/vm1" / name).touch()
    return [str(tmp_path / "memory"), str(tmp_path / "cpuset")]


def test_limits_go_where_the_kernel_has_their_files(paths: list[str]) -> None:
    make_limit_cgroups(paths, "vm1", Limits(memory=1 << 20, processes=7))
    cgroup = Path(paths[0]) / "vm1"
    assert (cgroup / "memory.limit_in_bytes").read_text() == "1048576"
    assert (cgroup / "pids.max").read_text() == "7"


def test_a_limit_that_the_kernel_does_not_know_is_an_error(paths: list[str]) -> None:
    with pytest.raises(OarLxcError, match=r"vm1: this node's kernel has no cpuset.cpus in"):
        make_limit_cgroups(paths, "vm1", Limits(cpus="0", processes=7))


def test_without_limits_a_container_has_its_cgroups_too(paths: list[str]) -> None:
    make_limit_cgroups(paths, "vm2", Limits())
    make_limit_cgroups(paths, "vm2", Limits())
    assert all((Path(path) / "vm2").is_dir() for path in paths)
    (Path(paths[1]) / "lxc.monitor.vm2").mkdir()
    for _ in range(2):
        assert remove_limit_cgroups(paths, ["vm2"]) == []
    assert not (Path(paths[1]) / "lxc.monitor.vm2").exists()
    assert not any((Path(path) / "vm2").exists() for path in paths)


def test_in_version_2_what_is_below_gets_the_controllers(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    for place in (tmp_path, tmp_path / "vm1"):
        (place / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "vm1/memory.max").touch()
    make_limit_cgroups([str(tmp_path)], "vm1", Limits(memory=1 << 20))
    assert (tmp_path / "vm1/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "vm1/memory.max").read_text() == "1048576"


def test_in_version_2_what_is_frozen_is_thawed(tmp_path: Path) -> None:
    (tmp_path / "vm1/start-7/lxc.payload").mkdir(parents=True)
    states = [tmp_path / "vm1" / name for name in ("", "start-7", "start-7/lxc.payload")]
    for state in states:
        (state / "cgroup.freeze").write_text("1")
    thaw_limit_cgroups([str(tmp_path)], ["vm1"])
    assert [(state / "cgroup.freeze").read_text() for state in states] == ["0"] * 3


def test_what_is_inside_goes_too_and_what_stays_is_waited_for_no_longer(paths: list[str]) -> None:
    assert remove_limit_cgroups(paths, ["vm1"], wait=0.01) == [f"{paths[0]}/vm1"]
    assert not (Path(paths[1]) / "vm1").exists()
    assert (Path(paths[0]) / "vm1/pids.max").exists()  # plain files are in the way here


def test_what_is_frozen_is_thawed(paths: list[str]) -> None:
    states = [Path(paths[1]) / "vm1" / name for name in ("", "lxc.payload")]
    for state in states:
        (state / "freezer.state").write_text("FROZEN")
    thaw_limit_cgroups(paths, ["vm1", "vm2"])
    assert [(state / "freezer.state").read_text() for state in states] == ["THAWED"] * 2
