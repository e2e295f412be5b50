"""Which OAR confines jobs to their CPUs on which host."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.sandbox.suites import cgroup_version, has_cpuset, problem


def test_the_version_of_cgroups_is_two_where_they_are_all_in_one_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").touch()
    assert cgroup_version(tmp_path) == 1
    (tmp_path / "cgroup.controllers").touch()
    assert cgroup_version(tmp_path) == 2


@pytest.mark.parametrize(("suite", "version"), [("bookworm", 1), ("trixie", 2)])
def test_each_suite_has_a_host_on_which_its_cpuset_is_on(suite: str, version: int) -> None:
    assert problem(suite, True, version) == ""
    assert has_cpuset(suite, version)


def test_on_another_host_the_reason_is_told_with_what_can_work() -> None:
    for cpuset in (True, False):
        told = problem("bookworm", cpuset, 2)
        assert "version 1, and this host has version 2: ask for --suite trixie" in told
    told = problem("trixie", True, 1)
    assert "version 2, and this host has version 1" in told
    assert told.endswith("ask for --no-cpuset or --suite bookworm")


def test_the_newer_suite_works_without_its_cpuset_on_an_older_host() -> None:
    assert problem("trixie", False, 1) == ""
    assert not has_cpuset("trixie", 1)
