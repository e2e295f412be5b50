"""Which OAR confines jobs to their CPUs on which host."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.sandbox.suites import cgroup_version, default, has_cpuset, problem, why


def test_the_version_of_cgroups_is_two_where_they_are_all_in_one_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").touch()
    assert cgroup_version(tmp_path) == 1
    (tmp_path / "cgroup.controllers").touch()
    assert cgroup_version(tmp_path) == 2


def test_the_cpuset_is_on_unless_the_host_has_older_cgroups_than_it_needs() -> None:
    assert has_cpuset("bookworm", 1)
    assert has_cpuset("trixie", 2)
    assert not has_cpuset("trixie", 1)


def test_a_cpuset_in_newer_cgroups_than_the_host_s_is_refused_with_what_can_work() -> None:
    told = problem("trixie", True, 1)
    assert "version 2 alone, and this host has version 1" in told
    assert told.endswith("ask for --no-cpuset or --suite bookworm")
    assert problem("trixie", False, 1) == ""
    assert problem("bookworm", True, 1) == ""


def test_a_cpuset_in_older_cgroups_than_the_host_s_is_refused_with_what_can_work() -> None:
    told = problem("bookworm", True, 2)
    assert "version 1 alone, and this host has version 2" in told
    assert told.endswith("ask for --no-cpuset or --suite trixie")
    assert problem("bookworm", False, 2) == ""
    assert problem("trixie", True, 2) == ""


def test_the_suite_is_the_one_whose_cpuset_can_be_on_here_and_it_is_told_why() -> None:
    for version in (1, 2):
        assert problem(default(version), True, version) == ""
    assert why(default(1)) == ""
    assert why(default(2)).startswith("suite trixie: this host has cgroup version 2 alone")
