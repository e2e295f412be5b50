"""The part of a node that a container gets."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.container.limits import (
    Limits,
    Share,
    limit_files,
    oom_kills,
    read_cpus,
    siblings,
    write_cpus,
)
from oar_lxc.model.plan import PlannedContainer
from oar_lxc.model.published import READY, PublishedJob
from tests.unit.fakes.programs import deep_tree


def planned(first: int = 0, cores: int = 0, memory: int = 0) -> PlannedContainer:
    return PlannedContainer("vm1", "node1", "10.0.0.2/21", "image", "", cores, first, memory)


def test_without_limits_there_are_no_files() -> None:
    assert list(limit_files(Limits())) == []


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


def test_each_limit_has_its_file_in_version_2() -> None:
    limits = Limits("0,4", 3, 1 << 29, swap=True, processes=100)
    assert list(limit_files(limits, unified=True)) == [
        ("cpuset.cpus", "0,4"),
        ("cpu.max", "300000 100000"),
        ("memory.max", "536870912"),
        ("memory.swap.max", "0"),
        ("pids.max", "100"),
    ]
    without_swap = limit_files(Limits(memory=1 << 29), unified=True)
    assert list(without_swap) == [("memory.max", "536870912")]
    assert list(limit_files(Limits(), unified=True)) == []


def test_the_share_of_a_job_is_read_from_version_2(tmp_path: Path) -> None:
    (tmp_path / "cpuset.cpus").write_text("\n")
    (tmp_path / "cpuset.cpus.effective").write_text("2-3\n")
    (tmp_path / "memory.swap.max").write_text("max\n")
    published = PublishedJob(
        42,
        "alice",
        "node1",
        ("node1",),
        READY,
        cgroups=(str(tmp_path),),
        unit="oar-lxc-42.service",
    )
    share = Share.of_node(published, 2)
    assert sorted(share.cpus) == [2, 3]
    assert share.swap


def test_threads_of_a_core_stay_together(tmp_path: Path) -> None:
    for cpu, text in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}.items():
        directory = tmp_path / f"cpu{cpu}/topology"
        directory.mkdir(parents=True)
        (directory / "thread_siblings_list").write_text(text + "\n")
    assert siblings([5, 4, 1, 0, 9], tmp_path) == [(0, 4), (1, 5), (9,)]


@pytest.mark.parametrize(
    ("cpus", "cores", "parts"),
    [
        ([0, 4, 1, 5], 2, [[0, 4], [1, 5]]),
        ([0, 1, 2], 3, [[0], [1], [2]]),
        ([0, 1, 2], 2, [[0], [1, 2]]),
        ([7], 2, [[7], [7]]),  # OAR was told of more cores than there are
    ],
)
def test_cpus_are_divided_among_the_jobs_cores(
    cpus: list[int], cores: int, parts: list[list[int]]
) -> None:
    share = Share(cpus, cores)
    assert [list(share.part(core, 1)) for core in range(cores)] == parts


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True), st.integers(1, 40))
def test_no_cpu_is_left_out_and_none_is_anothers(cpus: list[int], cores: int) -> None:
    share = Share(cpus, cores)
    parts = [list(share.part(core, 1)) for core in range(cores)]
    assert all(parts)
    flat = list(itertools.chain.from_iterable(parts))
    assert set(flat) == set(cpus)
    if cores <= len(cpus):
        assert flat == cpus
        assert share.part(0, cores) == cpus


def test_a_container_without_cores_of_its_own_shares_all() -> None:
    assert Share([0, 1], 2).limits(planned()).cpus == ""
    assert Share([0, 1, 2, 3], 4).limits(planned(1, 2)).cpus == "1,2"


def test_where_the_cpuset_is_off_time_is_divided() -> None:
    limits = Share([0, 4, 1, 5], 2, in_cpuset=False, threads=2).limits(planned(1, 1))
    assert (limits.cpus, limits.quota) == ("", 2)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_lists_of_cpus_are_read_as_they_are_written(cpus: set[int]) -> None:
    assert read_cpus(write_cpus(cpus)) == sorted(cpus)


def test_ranges_are_read_and_what_is_none_refused() -> None:
    assert read_cpus("0-2,8\n") == [0, 1, 2, 8]
    for text in ("", "a", "1-", "1,,2"):
        with pytest.raises(ValueError, match="no list of CPUs"):
            read_cpus(text)


def test_kills_are_counted_in_all_that_a_container_has(tmp_path: Path) -> None:
    for name, kills in (("vm1", 1), ("vm1/system.slice", 2), ("vm12", 4)):
        directory = tmp_path / name
        directory.mkdir()
        text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
        (directory / "memory.oom_control").write_text(text)
    assert oom_kills([str(tmp_path), "/nonexistent"], "vm1") == 3
    assert oom_kills([str(tmp_path)], "vm2") is None


def test_version_2_counts_kills_from_below_itself(tmp_path: Path) -> None:
    for name, kills in (("vm1", 3), ("vm1/system.slice", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.events").write_text(f"oom 9\noom_kill {kills}\n")
    assert oom_kills([str(tmp_path)], "vm1") == 3


def test_kills_are_counted_below_what_a_path_can_name(tmp_path: Path) -> None:
    (tmp_path / "vm1").mkdir()
    (tmp_path / "vm1/memory.oom_control").write_text("oom_kill 1\n")
    with deep_tree(tmp_path / "vm1", "x" * 250, 30) as top:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(29):
            below = os.open("x" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        file = os.open("memory.oom_control", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
        os.write(file, b"oom_kill 2\n")
        os.close(file)
        os.close(fd)
        assert oom_kills([str(tmp_path)], "vm1") == 3
