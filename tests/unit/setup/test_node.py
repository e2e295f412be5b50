"""Steps of a node's set-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.root import placement
from oar_lxc.root.placement import Hierarchy
from oar_lxc.setup import node


@pytest.fixture(autouse=True)
def _version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = [Hierarchy(Path("/sys/fs/cgroup/cpuset"), ("cpuset",), unified=False)]
    monkeypatch.setattr(placement, "hierarchies", lambda: mounted)


@pytest.mark.parametrize("is_made", [True, False])
def test_a_directory_in_the_place_of_oars_link_goes(tmp_path: Path, is_made: bool) -> None:
    """OAR makes its link again only where it has made none of its links."""
    link, others = tmp_path / "cpuset", tmp_path / "links"
    (link / "undef").mkdir(parents=True)
    if is_made:
        others.symlink_to("/sys/fs/cgroup/cpuset")
    step = node.cpuset_link(link, others)
    assert step.pending() == f"{link}: remove the directory"
    assert step.apply is not None
    step.apply()
    assert step.pending() is None
    assert link.is_symlink() == is_made
    assert not link.exists() or link.readlink() == Path("/sys/fs/cgroup/cpuset")


def test_a_link_that_oar_does_not_make_again_is_made(tmp_path: Path) -> None:
    link, others = tmp_path / "cpuset", tmp_path / "links"
    step = node.cpuset_link(link, others)
    assert step.pending() is None
    others.symlink_to("/sys/fs/cgroup/cpuset")
    assert step.pending() == f"{link}: make OAR's link"
    assert step.apply is not None
    step.apply()
    assert step.pending() is None
    assert link.readlink() == Path("/sys/fs/cgroup/cpuset")


def test_the_directory_that_keeps_keys_stays_with_version_2_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = [Hierarchy(Path("/sys/fs/cgroup"), (), unified=True)]
    monkeypatch.setattr(placement, "hierarchies", lambda: mounted)
    (tmp_path / "cpuset/oar/alice_42").mkdir(parents=True)
    assert node.cpuset_link(tmp_path / "cpuset", tmp_path / "links").pending() is None
