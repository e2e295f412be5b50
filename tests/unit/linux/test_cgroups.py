"""Walking cgroups, and removing and thawing them, whatever users made below."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oar_lxc.errors import TooLateError
from oar_lxc.linux.cgroups import processes_below, remove_cgroups, thaw, walk
from oar_lxc.linux.deadline import Deadline
from tests.unit.fakes.programs import deep_tree

LEVELS = [(1200, "a"), (30, "x" * 250)]  # more than a path or a process's open files can reach


def _below(root: Path) -> list[str]:
    names: list[str] = []
    walk(root, leave=lambda parent, name: names.append(name))
    return names


def test_a_walk_sees_parents_first_and_leaves_children_first(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/c").mkdir()
    entered: list[str] = []
    walk(tmp_path / "root", lambda parent, name: entered.append(name))
    assert entered.index("root") < entered.index("a") < entered.index("b")
    left = _below(tmp_path / "root")
    assert left.index("b") < left.index("a") < left.index("root")
    assert set(left) == set(entered) == {"root", "a", "b", "c"}


def test_a_walk_passes_over_what_was_removed_when_it_was_entered(tmp_path: Path) -> None:
    (tmp_path / "root/full/below").mkdir(parents=True)
    (tmp_path / "root/empty").mkdir()
    left: list[str] = []

    def remove(parent: int, name: str) -> bool:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            return False
        return True

    walk(tmp_path / "root", remove, lambda parent, name: left.append(name))
    assert left == ["full", "root"]
    assert os.listdir(tmp_path / "root") == ["full"]


def test_a_walk_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "outside/x").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(tmp_path / "outside")
    assert _below(tmp_path / "root") == ["root"]
    assert _below(tmp_path / "alias") == []


def test_a_walk_of_what_is_gone_sees_nothing(tmp_path: Path) -> None:
    assert _below(tmp_path / "missing") == []
    assert _below(tmp_path / "missing/below") == []


@pytest.mark.parametrize(("depth", "name"), LEVELS)
def test_a_walk_goes_deeper_than_paths_and_open_files_can(
    tmp_path: Path, depth: int, name: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    entered: list[str] = []
    with deep_tree(tmp_path, name, depth) as root:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        try:
            walk(
                root,
                lambda parent, name: entered.append(name),
                lambda parent, name: os.rmdir(name, dir_fd=parent),
            )
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not root.exists()
    assert len(entered) == depth
    assert os.listdir("/proc/self/fd") == before


def test_what_vanishes_during_a_walk_is_passed_over(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "root" / name / "x").mkdir(parents=True)
    left: list[str] = []

    def remove_others(parent: int, name: str) -> None:
        for other in set("abc") - {name} if name in "abc" else ():
            _remove(tmp_path / "root" / other)

    walk(tmp_path / "root", remove_others, lambda parent, name: left.append(name))
    assert len(set(left) & set("abc")) == 1


def _remove(path: Path) -> None:
    _if_there(lambda: (path / "x").rmdir())
    _if_there(path.rmdir)


def _if_there(act: Callable[[], object]) -> None:
    try:
        act()
    except FileNotFoundError:
        pass


@pytest.mark.parametrize(("depth", "name"), LEVELS)
def test_trees_deeper_than_paths_are_removed(tmp_path: Path, depth: int, name: str) -> None:
    with deep_tree(tmp_path, name, depth) as root:
        assert remove_cgroups(root)
        assert not root.exists()


def test_what_stays_keeps_only_what_is_above_it(tmp_path: Path) -> None:
    (tmp_path / "root/a/busy").mkdir(parents=True)
    (tmp_path / "root/a/busy/file").touch()  # a plain directory's way to be busy
    (tmp_path / "root/b/c").mkdir(parents=True)
    (tmp_path / "root/a/d").mkdir()
    assert not remove_cgroups(tmp_path / "root")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "busy", "file", "root"]
    assert remove_cgroups(tmp_path / "missing")
    assert remove_cgroups(tmp_path / "missing/below")


def test_nothing_is_removed_after_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(TooLateError, match="time was over"):
        remove_cgroups(tmp_path, Deadline.after(0))
    assert tmp_path.exists()


def test_what_may_not_be_entered_stays_and_the_rest_goes(tmp_path: Path) -> None:
    (tmp_path / "root/closed/below").mkdir(parents=True)
    (tmp_path / "root/open/below").mkdir(parents=True)
    (tmp_path / "root/closed").chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    code = "import sys, oar_lxc.linux.cgroups as c; print(c.remove_cgroups(c.Path(sys.argv[1])))"
    said = subprocess.run(
        [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", code, str(tmp_path / "root")],
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "root/closed").chmod(0o700)
    assert said.stdout == "False\n"
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == ["below", "closed"]


@pytest.mark.parametrize("file", ["freezer.state", "cgroup.freeze"])
def test_what_is_frozen_is_thawed_at_the_levels_that_are_asked_for(
    tmp_path: Path, file: str
) -> None:
    frozen, thawed = ("FROZEN", "THAWED") if file == "freezer.state" else ("1", "0")
    (tmp_path / "root/below").mkdir(parents=True)
    states = [tmp_path / "root" / file, tmp_path / "root/below" / file]
    for state in states:
        state.write_text(frozen)
    assert thaw(tmp_path / "root", depth=1)
    assert [state.read_text().strip() for state in states] == [thawed, frozen]
    assert thaw(tmp_path / "root")
    assert [state.read_text().strip() for state in states] == [thawed, thawed]


def test_nothing_is_thawed_that_cannot_be_frozen(tmp_path: Path) -> None:
    assert not thaw(tmp_path)
    assert not thaw(tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_processes_are_found_at_all_levels(tmp_path: Path) -> None:
    (tmp_path / "root/below/empty").mkdir(parents=True)
    (tmp_path / "root/cgroup.procs").write_text("12\n13\n")
    # 0 stands for a process that this process's namespace does not show.
    (tmp_path / "root/below/cgroup.procs").write_text("0\n14\n")
    assert processes_below(tmp_path / "root") == {12, 13, 14}
    assert processes_below(tmp_path / "missing") == set()
