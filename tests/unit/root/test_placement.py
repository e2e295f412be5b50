"""How OAR places a job: found out from what is mounted and what OAR has made, never guessed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.errors import OarLxcError
from oar_lxc.model.placement import NONE, NOT_KNOWN, SYSTEMD, V1, is_in_slice, slice_pattern
from oar_lxc.root.placement import Hierarchy, detect, is_in_units, looks_alive
from tests.unit.strategies import job_ids, users

SLICE = "oar.slice/oar-u1000.slice/oar-u1000-j42.slice"
TREES = ("v1", "hybrid", "v2")


class Tree:
    """A node's cgroup file systems, as plain directories.

    Args:
        path: where they are.
        kind: ``v1``, ``hybrid`` (version 2 without controllers beside version 1) or ``v2``.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.kind = kind
        self.cpuset = Hierarchy(path / "cpuset", ("cpuset",), False)
        self.pids = Hierarchy(path / "pids", ("pids",), False)
        self.unified = Hierarchy(path / "unified", (), True)
        self.mounted = {
            "v1": [self.cpuset, self.pids],
            "hybrid": [self.cpuset, self.pids, self.unified],
            "v2": [self.unified],
        }[kind]
        for hierarchy in self.mounted:
            hierarchy.path.mkdir(parents=True)
        if self.unified in self.mounted:
            controllers = "cpuset cpu io memory pids\n" if kind == "v2" else "hugetlb\n"
            (self.unified.path / "cgroup.controllers").write_text(controllers)

    @property
    def way(self) -> str:
        """The way in which an OAR for this node would place a job."""
        return SYSTEMD if self.kind == "v2" else V1

    def init(self, job_id: int = 42, user: str = "alice", uid: int = 1000) -> None:
        """Do what OAR's job resource manager does at a job's start."""
        if self.way == V1:
            (self.cpuset.path / f"oar/{user}_{job_id}").mkdir(parents=True)
        else:
            path = slice_pattern(f"/oar/{user}_{job_id}", job_id).replace("*", str(uid))
            (self.unified.path / path).mkdir(parents=True)

    def clean(self, job_id: int = 42, user: str = "alice", uid: int = 1000) -> None:
        """Do what it does at a job's end."""
        path = slice_pattern(f"/oar/{user}_{job_id}", job_id).replace("*", str(uid))
        for one in (self.cpuset.path / f"oar/{user}_{job_id}", self.unified.path / path):
            shutil.rmtree(one, ignore_errors=True)


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """Return each kind of node in turn."""
    return Tree(tmp_path, request.param)


@contextmanager
def any_tree(kind: str) -> Iterator[Tree]:
    with tempfile.TemporaryDirectory() as path:
        yield Tree(Path(path), kind)


def test_the_names_are_those_of_oars_job_resource_manager() -> None:
    assert slice_pattern("/oar/alice_42", 42) == "oar.slice/oar-u*.slice/oar-u*-j42.slice"
    assert slice_pattern("/site/alice_42", 7) == "site.slice/site-u*.slice/site-u*-j7.slice"
    assert slice_pattern("", 42) == slice_pattern("/oar/alice_42", 42)


def test_what_oar_has_made_tells_the_way(tree: Tree) -> None:
    tree.init()
    assert detect(42, "/oar/alice_42", tree.mounted) == tree.way


def test_with_the_cpuset_off_there_is_none(tree: Tree) -> None:
    tree.init(7)
    assert detect(42, "", tree.mounted) == NONE


@pytest.mark.parametrize("other", [(4, "alice", 1000), (421, "alice", 1000), (142, "alice", 1000)])
def test_what_is_of_another_job_tells_nothing(tree: Tree, other: tuple[int, str, int]) -> None:
    tree.init(*other)
    with pytest.raises(OarLxcError) as caught:
        detect(42, "/oar/alice_42", tree.mounted)
    assert str(caught.value) == (
        "this node has neither its cpuset /oar/alice_42 nor its slice oar-u*-j42.slice of job 42, "
        "so it is not known how OAR places jobs here: look for errors of OAR's job resource "
        "manager, and whether it is the one for this node's version of cgroups"
    )


def test_a_node_with_both_is_not_guessed_at(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "hybrid")
    (tree.unified.path / "cgroup.controllers").write_text("cpuset memory\n")
    tree.init()
    (tree.unified.path / SLICE).mkdir(parents=True)
    with pytest.raises(OarLxcError, match="has both its cpuset /oar/alice_42 and its slice oar-u"):
        detect(42, "/oar/alice_42", tree.mounted)


def test_a_slice_where_version_2_has_no_cpusets_is_not_oars(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "hybrid")
    (tree.unified.path / SLICE).mkdir(parents=True)
    with pytest.raises(OarLxcError, match="has neither"):
        detect(42, "/oar/alice_42", tree.mounted)


@given(st.sampled_from(TREES), job_ids, users, st.integers(0, 2**32 - 2))
def test_a_job_lives_from_init_to_clean_and_is_dead_after_it(
    kind: str, job_id: int, user: str, uid: int
) -> None:
    cgroup = f"/oar/{user}_{job_id}"
    with any_tree(kind) as tree:
        tree.init(job_id, user, uid)
        way = detect(job_id, cgroup, tree.mounted)
        for known in (way, NOT_KNOWN):
            for name in (cgroup, f"/oar/*_{job_id}"):
                assert looks_alive(known, job_id, name, tree.mounted)[0] is True
        tree.clean(job_id, user, uid)
        for known in (way, NOT_KNOWN):
            alive, why = looks_alive(known, job_id, cgroup, tree.mounted)
            assert (alive, why.endswith(" is gone")) == (False, True)


@given(st.sampled_from(TREES), st.text(max_size=8), st.booleans())
def test_a_running_job_is_never_dead_whatever_its_record_says(
    kind: str, way: str, in_cpuset: bool
) -> None:
    with any_tree(kind) as tree:
        tree.init()
        alive, why = looks_alive(way, 42, "/oar/alice_42" if in_cpuset else "", tree.mounted)
        assert alive is not False
        assert "\n" not in why


@pytest.mark.parametrize("way", [V1, SYSTEMD, NONE, "v3"])
@pytest.mark.parametrize("kind", TREES)
def test_a_record_of_another_way_than_the_nodes_is_not_judged(
    tmp_path: Path, kind: str, way: str
) -> None:
    tree = Tree(tmp_path, kind)
    tree.init(7)
    alive, why = looks_alive(way, 42, "/oar/alice_42", tree.mounted)
    assert alive is (False if way == tree.way else None)
    assert why.endswith(("is gone", "only OAR knows if it lives"))


def test_where_nothing_is_mounted_nothing_is_known() -> None:
    for way in (V1, SYSTEMD, NONE, NOT_KNOWN):
        assert looks_alive(way, 42, "/oar/alice_42", [])[0] is None


def test_without_a_record_a_node_where_oar_has_made_nothing_tells_nothing(tree: Tree) -> None:
    alive, why = looks_alive(NOT_KNOWN, 42, "/oar/alice_42", tree.mounted)
    assert (alive, why) == (None, "OAR's cpuset is off: only OAR knows if it lives")


def test_a_hook_sees_that_it_is_in_the_jobs_slice() -> None:
    text = f"0::/{SLICE}/oar-u1000-j42-p77.scope\n"
    assert is_in_slice(text, "/oar/alice_42", 42)
    assert is_in_slice(f"1:name=systemd:/\n0::/machine/{SLICE}\n", "/oar/alice_42", 42)
    assert not is_in_slice(text, "/oar/alice_4", 4)
    assert not is_in_slice(text, "/site/alice_42", 42)
    assert not is_in_slice(f"3:cpuset:/{SLICE}\n", "/oar/alice_42", 42)
    assert not is_in_slice("0::/oar.slice/oar-u1000.slice/oar-u1000-j42.slicex\n", "/oar/a_42", 42)
    assert not is_in_slice("0::/\n", "/oar/alice_42", 42)


def test_cgroups_are_systemds_to_delegate_where_they_are_of_version_2(tree: Tree) -> None:
    assert is_in_units(tree.way, tree.mounted) is (tree.kind == "v2")
    assert is_in_units(NONE, tree.mounted) is (tree.kind == "v2")
    assert not is_in_units(NONE, [])
